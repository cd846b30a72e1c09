/* The inner loops of pieces.py: text is cut into pieces, each piece is looked up by its bytes, and what is known of it,
   its ids and the codes of its word fragments, is gathered for all pieces in order.

   Nothing here knows a tokenizer or Unicode. Two Python functions are asked: `class_of` for the class of a character,
   once for each distinct one, and `resolve` for the ids and codes of pieces not met before, once for each group of pieces.

   Failure. A function that returns int returns 0, or -1 with a Python exception set. With the exception set, one that
   returns a pointer returns NULL, one that returns the number of a row 0 (no piece has row 0), and one that returns a
   class UNKNOWN. Callers pass a failure up at once.

   The two tables. `kept` lives as long as its Pieces and remembers up to `limit` distinct pieces of up to KEPT_BYTES.
   Longer pieces, and all new ones once it is full, go into `scratch`, which is emptied after each group. A group is
   about GROUP_BYTES of text, of one text or of several:

     cut_text      cuts, and looks each piece up; one not met before gets a row that has no ids and codes yet
     resolve_new   asks for them, for all new rows at once, and table_fill adds them
     gather_group  goes through the group's rows again and writes ids and words
     table_empty   empties `scratch`

   Between the first two steps there are rows without ids and codes (n_known < n_rows). So when a call fails, both tables
   are emptied: no later call may take such a row for a piece that has no ids.

   The open word. A word may consist of fragments from several pieces. The edges in a code, FIRST and LAST, say whether
   its fragment may be joined to what is before and after its piece. "load_2d x" is cut into five pieces of a fragment
   each, whose hashes are f0 to f4; all have both edges, but the last, which begins with a space, has only LAST:

     piece    hash                                              power    written
     load     f0                                                1
     _        f0 + f1 STEP                                      STEP
     2        f0 + f1 STEP + f2 STEP^2                          STEP^2
     d        f0 + f1 STEP + f2 STEP^2 + f3 STEP^3              STEP^3
     " x"     f4                                                1        load_2d, as the next word begins
     (end)                                                               x, as the text ends

   `pending` says that `hash` is of a word not yet written; `open`, that the last fragment has LAST, so that one with
   FIRST continues the word. A piece without fragments ("!=") closes the word: it stays pending, but is no longer open.
   These four are in Work and not on the stack, because a group may end in the middle of a word. */

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include "_array.h"
#include "_contraction.h"

enum { LETTER = 1, DIGIT = 2, OTHER = 4, SPACE = 8, BLANK = 24, UNKNOWN = 255 }; /* BLANK, the space character: SPACE too */
enum { FIRST = 1, LAST = 2 }; /* edges of a fragment: may be joined to what is before, after its piece */

#define POINTS 0x110000
#define GROUP_BYTES (1 << 20) /* text between two calls for new pieces: what it needs stays in the caches */
#define KEPT_BYTES 127        /* longer pieces go into `scratch` */
#define SCRATCH 0x80000000u   /* in a row's number: the row is of `scratch`, not of `kept` */
#define MULTIPLIER 0x9E3779B97F4A7C15u /* 2^64 / golden ratio: Fibonacci hashing (Knuth, TAOCP 3, 6.4) */
#define WORD_STEP 0xA0761D6478BD642Fu  /* words.py has the same: a word of fragments f0 f1 ... is the sum of fi STEP^i */

#if defined(__GNUC__)
#define PREFETCH(place) __builtin_prefetch(place)
#else
#define PREFETCH(place) ((void)0)
#endif
#define AHEAD 16 /* pieces looked up together, when memory has had time to bring their slots */

/* ---- Tables: rows by the bytes of a piece, open addressing ---- */

typedef struct {
    const char *text;
    size_t size;
    uint64_t head, hash; /* head: the first eight bytes, zeros behind */
} Piece;

typedef struct {
    uint64_t head;
    uint32_t size; /* of the piece, in bytes; 0: the slot is free */
    uint32_t row;
} Slot;

typedef struct {
    uint32_t text, ids, codes; /* where in the table's arrays those of the row begin; they end where the next row's do */
} Row;

typedef struct {
    Slot *slots;
    uint64_t mask;
    uint32_t n_rows, n_known; /* n_known: of how many rows ids and codes are there */
    Array rows, text, ids, codes; /* Row, one more than n_rows; char; uint32_t; uint64_t */
} Table;

/* Make a table of 2^bits slots. Row 0, which has no piece, stands behind each text. */
static int table_init(Table *table, unsigned bits, uint32_t ids_of_row_0, const uint32_t *ids)
{
    Row rows[2] = {{0, 0, 0}, {0, ids_of_row_0, 0}};
    memset(table, 0, sizeof *table);
    table->mask = ((uint64_t)1 << bits) - 1;
    table->slots = calloc(table->mask + 1, sizeof(Slot));
    if (!table->slots) {
        PyErr_NoMemory();
        return -1;
    }
    table->n_rows = table->n_known = 1;
    return append(&table->rows, rows, sizeof rows) || append(&table->ids, ids, ids_of_row_0 * sizeof *ids) ? -1 : 0;
}

static void table_free(Table *table)
{
    free(table->slots);
    free(table->rows.data);
    free(table->text.data);
    free(table->ids.data);
    free(table->codes.data);
}

static void table_empty(Table *table)
{
    if (table->n_rows == 1)
        return;
    memset(table->slots, 0, (table->mask + 1) * sizeof(Slot));
    const Row *first = (Row *)table->rows.data + 1;
    table->n_rows = table->n_known = 1;
    table->rows.used = 2 * sizeof(Row);
    table->text.used = first->text;
    table->ids.used = first->ids * sizeof(uint32_t);
    table->codes.used = first->codes * sizeof(uint64_t);
}

/* Return up to eight bytes as a number, zeros behind. `readable` bytes may be touched. */
static inline uint64_t load(const char *text, size_t size, size_t readable)
{
    uint64_t word = 0;
    if (size >= 8) {
        memcpy(&word, text, 8);
    } else if (PY_LITTLE_ENDIAN && readable >= 8) { /* faster than copying a few bytes */
        memcpy(&word, text, 8);
        word &= ((uint64_t)1 << 8 * size) - 1;
    } else {
        memcpy(&word, text, size);
    }
    return word;
}

static inline uint64_t hash_of(const char *text, size_t size, uint64_t head)
{
    uint64_t h = (head ^ size) * MULTIPLIER;
    for (size_t i = 8; i < size; i += 8)
        h = (h ^ h >> 29 ^ load(text + i, size - i, 0)) * MULTIPLIER;
    return h ^ h >> 32;
}

static int table_grow(Table *table)
{
    uint64_t mask = table->mask * 2 + 1;
    Slot *slots = calloc(mask + 1, sizeof(Slot));
    if (!slots) {
        PyErr_NoMemory();
        return -1;
    }
    const Row *rows = (Row *)table->rows.data;
    for (uint64_t i = 0; i <= table->mask; i++) {
        Slot slot = table->slots[i];
        if (!slot.size)
            continue;
        uint64_t place = hash_of(table->text.data + rows[slot.row].text, slot.size, slot.head) & mask;
        while (slots[place].size)
            place = (place + 1) & mask;
        slots[place] = slot;
    }
    free(table->slots);
    table->slots = slots;
    table->mask = mask;
    return 0;
}

/* Return the slot of a piece, or the free one where it would be. */
static inline Slot *table_slot(const Table *table, const Piece *piece)
{
    for (uint64_t place = piece->hash & table->mask;; place = (place + 1) & table->mask) {
        Slot *slot = &table->slots[place];
        if (!slot->size)
            return slot;
        if (slot->head != piece->head || slot->size != piece->size)
            continue;
        if (piece->size <= 8)
            return slot;
        const Row *row = (Row *)table->rows.data + slot->row;
        if (!memcmp(table->text.data + row->text + 8, piece->text + 8, piece->size - 8))
            return slot;
    }
}

/* Return the row of a piece, a new one when it has none, whose ids and codes come later; 0 on failure. */
static inline uint32_t table_row(Table *table, const Piece *piece)
{
    Slot *slot = table_slot(table, piece);
    if (slot->size)
        return slot->row;
    if (2 * (uint64_t)table->n_rows > table->mask) {
        if (table_grow(table))
            return 0;
        slot = table_slot(table, piece);
    }
    if (reserve(&table->rows, sizeof(Row)) || append(&table->text, piece->text, piece->size))
        return 0;
    *slot = (Slot){piece->head, (uint32_t)piece->size, table->n_rows};
    Row *end = (Row *)(table->rows.data + table->rows.used);
    *end = (Row){(uint32_t)table->text.used, 0, 0};
    table->rows.used += sizeof *end;
    return table->n_rows++;
}

/* ---- The object ---- */

typedef struct {
    PyObject_HEAD
    uint8_t *classes; /* of every character */
    Table kept, scratch;
    uint32_t limit; /* rows that `kept` may have */
    int id_bytes;
} Pieces;

/* Return the class of the character at p, and its length in bytes; UNKNOWN on failure. */
static uint8_t class_at(Pieces *self, const uint8_t *p, size_t *length, PyObject *class_of)
{
    uint32_t point = *p;
    *length = 1;
    if (point >= 0xF0) {
        point = (point & 7) << 18 | (p[1] & 63u) << 12 | (p[2] & 63u) << 6 | (p[3] & 63u);
        *length = 4;
    } else if (point >= 0xE0) {
        point = (point & 15) << 12 | (p[1] & 63u) << 6 | (p[2] & 63u);
        *length = 3;
    } else if (point >= 0xC0) {
        point = (point & 31) << 6 | (p[1] & 63u);
        *length = 2;
    }
    if (self->classes[point] == UNKNOWN) {
        PyObject *answer = PyObject_CallFunction(class_of, "k", (unsigned long)point);
        if (!answer)
            return UNKNOWN;
        long class = PyLong_AsLong(answer);
        Py_DECREF(answer);
        if (class != LETTER && class != DIGIT && class != OTHER && class != SPACE && class != BLANK) {
            if (!PyErr_Occurred())
                PyErr_Format(PyExc_ValueError, "no class of a character: %ld", class);
            return UNKNOWN;
        }
        self->classes[point] = (uint8_t)class;
    }
    return self->classes[point];
}

/* Return where the run of characters of class `kind` (SPACE includes BLANK) from p on ends, NULL on failure. */
static inline const uint8_t *run_end(Pieces *self, const uint8_t *p, const uint8_t *end, uint8_t kind,
                                     PyObject *class_of)
{
    while (p < end) {
        size_t length = 1;
        uint8_t class = *p < 0x80 ? self->classes[*p] : UNKNOWN;
        if (class == UNKNOWN && (class = class_at(self, p, &length, class_of)) == UNKNOWN)
            return NULL;
        if (!(class & kind))
            break;
        p += length;
    }
    return p;
}

/* Return where the piece that begins at p ends, NULL on failure:

   '(?:[sdmt]|ll|ve|re)\p{L}*| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+ */
static inline const uint8_t *piece_end(Pieces *self, const uint8_t *p, const uint8_t *end, PyObject *class_of)
{
    size_t length;
    if (*p == '\'' && (length = contraction(p, end)))
        return run_end(self, p + length, end, LETTER, class_of);
    uint8_t class = class_at(self, p, &length, class_of);
    if (class == BLANK && p + 1 < end) {
        size_t next_length;
        uint8_t next = class_at(self, p + 1, &next_length, class_of);
        if (next == UNKNOWN)
            return NULL;
        if (!(next & SPACE))
            return run_end(self, p + 1 + next_length, end, next, class_of);
    }
    if (class == UNKNOWN)
        return NULL;
    if (!(class & SPACE))
        return run_end(self, p + length, end, class, class_of);
    const uint8_t *stop = run_end(self, p + length, end, SPACE, class_of), *last = stop;
    if (!stop || stop == end || stop == p + length)
        return stop;
    do /* the last character of several goes with what follows, if it can */
        last--;
    while ((*last & 0xC0) == 0x80);
    return last;
}

/* ---- From texts to ids and words ---- */

typedef struct {
    PyObject *array; /* a bytearray */
    size_t used;
} Output;

/* Return where `more` bytes can be written, NULL on failure. */
static char *output_reserve(Output *output, size_t more)
{
    size_t size = output->used + more;
    if (size > (size_t)PyByteArray_Size(output->array) && PyByteArray_Resize(output->array, (Py_ssize_t)size))
        return NULL;
    return PyByteArray_AsString(output->array) + output->used;
}

typedef struct {
    Output ids, words, id_ends, word_ends;
    Array rows; /* uint32_t: of the group's pieces, 0 behind each text */
    Piece waiting[AHEAD]; /* to be looked up */
    int n_waiting;
    /* The word that may go on: its hash and the last power of WORD_STEP; whether there is one, and it is still open. */
    uint64_t hash, power;
    int pending, open;
} Work;

static uint32_t row_of_piece(Pieces *self, const Piece *piece)
{
    if (piece->size <= KEPT_BYTES) {
        if (self->kept.n_rows < self->limit)
            return table_row(&self->kept, piece);
        const Slot *slot = table_slot(&self->kept, piece);
        if (slot->size)
            return slot->row;
    }
    uint32_t row = table_row(&self->scratch, piece);
    return row ? row | SCRATCH : 0;
}

/* Look up the pieces that wait, and note their rows. */
static int look_up(Pieces *self, Work *work)
{
    if (reserve(&work->rows, AHEAD * sizeof(uint32_t)))
        return -1;
    uint32_t *rows = (uint32_t *)(work->rows.data + work->rows.used);
    for (int i = 0; i < work->n_waiting; i++)
        if (!(rows[i] = row_of_piece(self, &work->waiting[i])))
            return -1;
    work->rows.used += (size_t)work->n_waiting * sizeof *rows;
    work->n_waiting = 0;
    return 0;
}

static int spell_new(const Table *table, PyObject *list)
{
    const Row *rows = (Row *)table->rows.data;
    for (uint32_t i = table->n_known; i < table->n_rows; i++) {
        PyObject *piece =
            PyBytes_FromStringAndSize(table->text.data + rows[i].text, (Py_ssize_t)(rows[i + 1].text - rows[i].text));
        if (!piece || PyList_Append(list, piece)) {
            Py_XDECREF(piece);
            return -1;
        }
        Py_DECREF(piece);
    }
    return 0;
}

typedef struct {
    Py_buffer view;
    size_t used; /* elements */
} Input;

/* Append the next of `values`, as many as the next of `counts` says; set `end` to where in the array they end. */
static int append_counted(Array *array, size_t element, uint32_t *end, Input *counts, Input *values)
{
    size_t count = ((const uint32_t *)counts->view.buf)[counts->used++];
    if ((values->used + count) * element > (size_t)values->view.len) {
        PyErr_SetString(PyExc_ValueError, "fewer values than their counts say");
        return -1;
    }
    if (append(array, (const char *)values->view.buf + values->used * element, count * element))
        return -1;
    values->used += count;
    *end = (uint32_t)(array->used / element);
    return 0;
}

/* Give the table's new rows their ids and codes, the next of the input. */
static int table_fill(Table *table, Input *input)
{
    for (; table->n_known < table->n_rows; table->n_known++) {
        Row *end = (Row *)table->rows.data + table->n_known + 1;
        if (append_counted(&table->ids, sizeof(uint32_t), &end->ids, &input[0], &input[1]) ||
            append_counted(&table->codes, sizeof(uint64_t), &end->codes, &input[2], &input[3]))
            return -1;
    }
    return 0;
}

/* Ask `resolve` for the ids and codes of the pieces that are new in both tables. */
static int resolve_new(Pieces *self, PyObject *resolve)
{
    PyObject *pieces = PyList_New(0), *answer = NULL;
    Input input[4] = {{{0}, 0}};
    int open = 0, status = -1;
    if (!pieces || spell_new(&self->kept, pieces) || spell_new(&self->scratch, pieces))
        goto done;
    Py_ssize_t n = PyList_Size(pieces);
    if (!n) {
        status = 0;
        goto done;
    }
    answer = PyObject_CallFunctionObjArgs(resolve, pieces, NULL);
    if (!answer)
        goto done;
    if (!PyTuple_Check(answer) || PyTuple_Size(answer) != 4) {
        PyErr_SetString(PyExc_TypeError, "four arrays are expected for the new pieces");
        goto done;
    }
    for (; open < 4; open++)
        if (PyObject_GetBuffer(PyTuple_GetItem(answer, open), &input[open].view, PyBUF_SIMPLE))
            goto done;
    if (input[0].view.len != n * 4 || input[2].view.len != n * 4) {
        PyErr_SetString(PyExc_ValueError, "one count is expected for each new piece");
        goto done;
    }
    status = table_fill(&self->kept, input) || table_fill(&self->scratch, input) ? -1 : 0;
done:
    while (open)
        PyBuffer_Release(&input[--open].view);
    Py_XDECREF(answer);
    Py_XDECREF(pieces);
    return status;
}

static inline const Row *row_of(const Pieces *self, uint32_t row, const Table **table)
{
    *table = row & SCRATCH ? &self->scratch : &self->kept;
    return (Row *)(*table)->rows.data + (row & ~SCRATCH);
}

static int push_end(Output *output, size_t end)
{
    char *place = output_reserve(output, sizeof(int64_t));
    if (!place)
        return -1;
    int64_t value = (int64_t)end;
    memcpy(place, &value, sizeof value);
    output->used += sizeof value;
    return 0;
}

/* Write the word that was going on, if there is one; return where the next is to be written. */
static inline char *end_word(Work *work, char *words)
{
    if (work->pending) {
        memcpy(words, &work->hash, sizeof work->hash);
        words += sizeof work->hash;
        work->pending = 0;
    }
    return words;
}

/* Append the ids and words of the group's pieces to the output. */
static int gather_group(Pieces *self, Work *work)
{
    const uint32_t *rows = (uint32_t *)work->rows.data;
    size_t n = work->rows.used / sizeof *rows, n_ids = 0, n_codes = 1;
    const Table *table;
    for (size_t i = 0; i < n; i++) {
        const Row *row = row_of(self, rows[i], &table);
        n_ids += row[1].ids - row[0].ids;
        n_codes += row[1].codes - row[0].codes;
    }
    char *ids = output_reserve(&work->ids, n_ids * (size_t)self->id_bytes);
    char *words = output_reserve(&work->words, n_codes * sizeof(uint64_t));
    if (!ids || !words)
        return -1;
    for (size_t i = 0; i < n; i++) {
        const Row *row = row_of(self, rows[i], &table);
        const uint32_t *id = (uint32_t *)table->ids.data + row[0].ids;
        size_t count = row[1].ids - row[0].ids;
        if (self->id_bytes == 2) {
            for (size_t k = 0; k < count; k++, ids += 2) {
                uint16_t value = (uint16_t)id[k];
                memcpy(ids, &value, 2);
            }
        } else {
            for (size_t k = 0; k < count; k++, ids += 4)
                memcpy(ids, &id[k], 4);
        }
        const uint64_t *codes = (uint64_t *)table->codes.data;
        size_t from = row[0].codes, to = row[1].codes;
        if (from < to && work->open && codes[from] & FIRST) {
            work->power *= WORD_STEP;
            work->hash += (codes[from++] & ~(uint64_t)3) * work->power;
        }
        for (; from < to; from++) {
            words = end_word(work, words);
            work->hash = codes[from] & ~(uint64_t)3;
            work->power = work->pending = 1;
        }
        work->open = row[0].codes < to && codes[to - 1] & LAST;
        if (rows[i])
            continue;
        words = end_word(work, words);
        if (push_end(&work->id_ends, (size_t)(ids - PyByteArray_AsString(work->ids.array)) / (size_t)self->id_bytes) ||
            push_end(&work->word_ends, (size_t)(words - PyByteArray_AsString(work->words.array)) / sizeof(uint64_t)))
            return -1;
    }
    work->ids.used = (size_t)(ids - PyByteArray_AsString(work->ids.array));
    work->words.used = (size_t)(words - PyByteArray_AsString(work->words.array));
    return 0;
}

static int end_group(Pieces *self, Work *work, PyObject *resolve)
{
    if (resolve_new(self, resolve) || gather_group(self, work))
        return -1;
    work->rows.used = 0;
    table_empty(&self->scratch);
    return PyErr_CheckSignals();
}

static int cut_text(Pieces *self, Work *work, PyObject *text, size_t *in_group, PyObject *class_of, PyObject *resolve)
{
    Py_ssize_t length;
    const uint8_t *p = (const uint8_t *)PyUnicode_AsUTF8AndSize(text, &length), *end;
    if (!p)
        return -1;
    end = p + length;
    while (p < end) {
        const uint8_t *stop = piece_end(self, p, end, class_of);
        if (!stop)
            return -1;
        if (stop - p > INT32_MAX) {
            PyErr_SetString(PyExc_ValueError, "a run of 2 GiB without a place to cut it cannot be encoded");
            return -1;
        }
        size_t size = (size_t)(stop - p);
        uint64_t head = load((const char *)p, size, (size_t)(end - p));
        Piece piece = {(const char *)p, size, head, hash_of((const char *)p, size, head)};
        PREFETCH(&self->kept.slots[piece.hash & self->kept.mask]);
        work->waiting[work->n_waiting++] = piece;
        *in_group += size;
        p = stop;
        if ((work->n_waiting == AHEAD || *in_group >= GROUP_BYTES) && look_up(self, work))
            return -1;
        if (*in_group >= GROUP_BYTES) {
            if (end_group(self, work, resolve))
                return -1;
            *in_group = 0;
        }
    }
    uint32_t none = 0;
    return look_up(self, work) || append(&work->rows, &none, sizeof none) ? -1 : 0;
}

static int output_open(Output *output)
{
    output->array = PyByteArray_FromStringAndSize(NULL, 0);
    return output->array ? 0 : -1;
}

static PyObject *pieces_gather(Pieces *self, PyObject *args)
{
    PyObject *texts, *class_of, *resolve, *result = NULL;
    if (!PyArg_ParseTuple(args, "O!OO", &PyList_Type, &texts, &class_of, &resolve))
        return NULL;
    Work work = {0};
    Output *outputs[4] = {&work.ids, &work.id_ends, &work.words, &work.word_ends};
    size_t in_group = 0;
    for (int i = 0; i < 4; i++)
        if (output_open(outputs[i]))
            goto done;
    for (Py_ssize_t i = 0; i < PyList_Size(texts); i++)
        if (cut_text(self, &work, PyList_GetItem(texts, i), &in_group, class_of, resolve))
            goto done;
    if (end_group(self, &work, resolve))
        goto done;
    for (int i = 0; i < 4; i++)
        if (PyByteArray_Resize(outputs[i]->array, (Py_ssize_t)outputs[i]->used))
            goto done;
    result = PyTuple_Pack(4, work.ids.array, work.id_ends.array, work.words.array, work.word_ends.array);
done:
    if (!result) { /* rows without ids and codes must not be met later */
        table_empty(&self->kept);
        table_empty(&self->scratch);
    }
    for (int i = 0; i < 4; i++)
        Py_XDECREF(outputs[i]->array);
    free(work.rows.data);
    return result;
}

static PyObject *pieces_split(Pieces *self, PyObject *args)
{
    PyObject *text, *class_of, *pieces = PyList_New(0);
    Py_ssize_t start, most, length;
    if (!pieces || !PyArg_ParseTuple(args, "OnnO", &text, &start, &most, &class_of))
        goto failed;
    const uint8_t *p = (const uint8_t *)PyUnicode_AsUTF8AndSize(text, &length), *end;
    if (!p)
        goto failed;
    if (start < 0 || start > length) {
        PyErr_SetString(PyExc_ValueError, "start is not in the text");
        goto failed;
    }
    end = p + length;
    p += start;
    while (p < end && PyList_Size(pieces) < most) {
        const uint8_t *stop = piece_end(self, p, end, class_of);
        PyObject *piece = stop ? PyBytes_FromStringAndSize((const char *)p, stop - p) : NULL;
        if (!piece || PyList_Append(pieces, piece)) {
            Py_XDECREF(piece);
            goto failed;
        }
        Py_DECREF(piece);
        p = stop;
    }
    return pieces;
failed:
    Py_XDECREF(pieces);
    return NULL;
}

static PyObject *pieces_kept(Pieces *self, PyObject *Py_UNUSED(ignored))
{
    return PyLong_FromUnsignedLong(self->kept.n_rows - 1);
}

static void pieces_dealloc(Pieces *self)
{
    PyTypeObject *type = Py_TYPE((PyObject *)self);
    free(self->classes);
    table_free(&self->kept);
    table_free(&self->scratch);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(self);
    Py_DECREF(type);
}

static PyObject *pieces_new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    static char *names[] = {"id_bytes", "end", "limit", NULL};
    int id_bytes;
    long long end; /* the id behind each text; -1: none */
    unsigned int limit;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "iLI", names, &id_bytes, &end, &limit))
        return NULL;
    if ((id_bytes != 2 && id_bytes != 4) || limit < 1 || limit > 1u << 30)
        return PyErr_Format(PyExc_ValueError, "id_bytes is 2 or 4, limit at least 1");
    Pieces *self = (Pieces *)((allocfunc)PyType_GetSlot(type, Py_tp_alloc))(type, 0);
    if (!self)
        return NULL;
    uint32_t id = (uint32_t)end;
    self->id_bytes = id_bytes;
    self->limit = limit;
    self->classes = malloc(POINTS);
    if (!self->classes || table_init(&self->kept, 15, end >= 0, &id) || table_init(&self->scratch, 10, 0, &id)) {
        if (!PyErr_Occurred())
            PyErr_NoMemory();
        Py_DECREF(self);
        return NULL;
    }
    memset(self->classes, UNKNOWN, POINTS);
    return (PyObject *)self;
}

static PyMethodDef methods[] = {
    {"gather", (PyCFunction)pieces_gather, METH_VARARGS, NULL},
    {"split", (PyCFunction)pieces_split, METH_VARARGS, NULL},
    {"kept", (PyCFunction)pieces_kept, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_new, pieces_new},
    {Py_tp_dealloc, pieces_dealloc},
    {Py_tp_methods, methods},
    {0, NULL},
};

static PyType_Spec spec = {"epochal.tokenize._pieces.Pieces", sizeof(Pieces), 0, Py_TPFLAGS_DEFAULT, slots};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_pieces", NULL, -1, NULL, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__pieces(void)
{
    PyObject *made = PyModule_Create(&module), *type = PyType_FromSpec(&spec);
    if (!made || !type || PyModule_AddIntMacro(made, LETTER) || PyModule_AddIntMacro(made, DIGIT) ||
        PyModule_AddIntMacro(made, OTHER) || PyModule_AddIntMacro(made, SPACE) || PyModule_AddIntMacro(made, BLANK) ||
        PyModule_AddIntMacro(made, FIRST) || PyModule_AddIntMacro(made, LAST) ||
        PyModule_AddObject(made, "Pieces", type)) {
        Py_XDECREF(made);
        Py_XDECREF(type);
        return NULL;
    }
    return made;
}
