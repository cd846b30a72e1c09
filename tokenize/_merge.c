/* Byte-level BPE of many pieces at once: each piece's bytes become tokens, and then, again and again, the two neighbours
   whose merge comes first in the list become one, the leftmost of equals, until no two neighbours have a merge. That is
   what a tokenizer.json defines.

   Merges are looked up by the ids of the two neighbours, those of two bytes by the bytes. A piece in work is a list of
   symbols, linked by their places, which are those of the first bytes they stand for; a heap holds the merges that its
   neighbours have, by rank and place. An entry whose symbol has changed since is passed over: `ranks` says which merge a
   symbol has with its next.

   Long pieces. A sequence of tokens is what a text becomes if every two neighbours are what their own bytes become: the
   first merge across the border between two of them would also be made where only the two are, since up to there each
   side goes its own way. So a piece longer than a window is encoded window by window, each beginning at a token of the
   one before that lies some way before its end. If it begins with that very token, the tokens before it and those of the
   new window are the piece's. Otherwise all is done again with windows twice as long, in the worst case as long as the
   piece. So the caches hold what a window needs, and time grows with the length.

   Nothing here knows a vocabulary but for one thing of GPT-2's expression (see pieces.py): a piece that begins with a
   contraction is two, the contraction and the letters behind it.

   Failure. A function that returns int returns 0, or -1 with a Python exception set. */

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include "_contraction.h"

#define NONE UINT32_MAX
#define FREE UINT64_MAX
#define MULTIPLIER 0x9E3779B97F4A7C15u /* 2^64 / golden ratio: Fibonacci hashing (Knuth, TAOCP 3, 6.4) */
#define WINDOW 4096                    /* bytes of a long piece that are merged together; the next has a fourth of them too */

typedef struct {
    PyObject_HEAD
    uint32_t of_byte[256]; /* ids */
    uint32_t *of_bytes;    /* ranks of the merges of each two bytes, 256 x 256; NONE where they have none */
    uint32_t *made;        /* id that each merge makes */
    uint64_t *pairs;       /* ids of left and right; FREE where the slot is */
    uint32_t *ranks;       /* of the merge of each pair */
    unsigned shift;        /* of a hash, so that a place in `pairs` is left */
    uint64_t mask;
} Merger;

/* ---- Merges by their two ids ---- */

static inline uint64_t pair_of(uint32_t left, uint32_t right)
{
    return (uint64_t)left << 32 | right;
}

/* Return the slot of two ids, or the free one where they would be. */
static inline uint64_t slot_of(const Merger *self, uint64_t pair)
{
    uint64_t place = pair * MULTIPLIER >> self->shift;
    while (self->pairs[place] != pair && self->pairs[place] != FREE)
        place = (place + 1) & self->mask;
    return place;
}

/* Return the rank of the merge of two ids, NONE where they have none. */
static inline uint32_t rank_of(const Merger *self, uint32_t left, uint32_t right)
{
    return self->ranks[slot_of(self, pair_of(left, right))];
}

/* ---- One window ---- */

typedef struct {
    size_t room;     /* symbols that there is memory for */
    uint32_t *ids;   /* of the symbol that begins at a byte */
    uint32_t *ranks; /* of its merge with the next one; NONE */
    uint32_t *next, *before; /* where the next one and the one before begin */
    uint64_t *heap; /* rank << 32 | place; at most two for each byte */
    size_t in_heap;
} Window;

static void window_free(Window *window)
{
    free(window->ids);
    free(window->heap);
}

static int window_reserve(Window *window, size_t room)
{
    if (room <= window->room)
        return 0;
    window_free(window);
    window->room = 0;
    window->ids = malloc(4 * room * sizeof(uint32_t));
    window->heap = malloc(2 * room * sizeof(uint64_t));
    if (!window->ids || !window->heap) {
        PyErr_NoMemory();
        return -1;
    }
    window->ranks = window->ids + room;
    window->next = window->ranks + room;
    window->before = window->next + room;
    window->room = room;
    return 0;
}

static inline void heap_push(Window *window, uint64_t entry)
{
    uint64_t *heap = window->heap;
    size_t i = window->in_heap++;
    for (; i && heap[(i - 1) / 2] > entry; i = (i - 1) / 2)
        heap[i] = heap[(i - 1) / 2];
    heap[i] = entry;
}

static inline uint64_t heap_pop(Window *window)
{
    uint64_t *heap = window->heap, least = heap[0], last = heap[--window->in_heap];
    size_t i = 0, n = window->in_heap;
    for (size_t child = 1; child < n; child = 2 * i + 1) {
        child += child + 1 < n && heap[child + 1] < heap[child];
        if (heap[child] >= last)
            break;
        heap[i] = heap[child];
        i = child;
    }
    heap[i] = last;
    return least;
}

/* Note that the symbol at `place` has this merge with the next one. */
static inline void note_merge(Window *window, uint32_t place, uint32_t rank)
{
    window->ranks[place] = rank;
    if (rank != NONE)
        heap_push(window, (uint64_t)rank << 32 | place);
}

/* Merge `size` bytes, at least one, until nothing can be merged: the tokens are then those at place 0, at the next of it,
   and so on until `size`. There is memory for them. */
static void merge_window(const Merger *self, Window *window, const uint8_t *bytes, size_t size)
{
    uint32_t *ids = window->ids, *next = window->next, *before = window->before;
    window->in_heap = 0;
    for (size_t i = 0; i < size; i++) {
        ids[i] = self->of_byte[bytes[i]];
        next[i] = (uint32_t)i + 1;
        before[i] = (uint32_t)i - 1; /* of the first one nothing, and it is not looked at */
        note_merge(window, (uint32_t)i, i + 1 < size ? self->of_bytes[bytes[i] << 8 | bytes[i + 1]] : NONE);
    }
    while (window->in_heap) {
        uint64_t entry = heap_pop(window);
        uint32_t place = (uint32_t)entry, right = next[place];
        if (window->ranks[place] != entry >> 32)
            continue;
        ids[place] = self->made[entry >> 32];
        window->ranks[right] = NONE;
        next[place] = next[right];
        if (next[place] < size)
            before[next[place]] = place;
        note_merge(window, place, next[place] < size ? rank_of(self, ids[place], ids[next[place]]) : NONE);
        if (place)
            note_merge(window, before[place], rank_of(self, ids[before[place]], ids[place]));
    }
}

/* ---- Pieces ---- */

typedef struct {
    uint32_t *data;
    size_t used, room;
} Ids;

static int ids_reserve(Ids *ids, size_t more)
{
    if (ids->used + more <= ids->room)
        return 0;
    size_t room = ids->used + more + ids->room / 2;
    uint32_t *data = realloc(ids->data, room * sizeof *data);
    if (!data) {
        PyErr_NoMemory();
        return -1;
    }
    ids->data = data;
    ids->room = room;
    return 0;
}

/* Append the tokens of a window from place 0 up to `stop`; return where the one behind them begins. */
static size_t take(const Window *window, Ids *ids, size_t stop)
{
    size_t place = 0;
    for (; place < stop; place = window->next[place])
        ids->data[ids->used++] = window->ids[place];
    return place;
}

/* Append the tokens of some bytes, merged `length` at a time; there is memory for them. Return whether the windows fit
   together. */
static int encode_windows(const Merger *self, Window *window, Ids *ids, const uint8_t *bytes, size_t size, size_t length)
{
    uint32_t expected = NONE; /* the token that the window must begin with; NONE: any */
    for (;;) {
        size_t here = size < length ? size : length;
        merge_window(self, window, bytes, here);
        if (expected != NONE && window->ids[0] != expected)
            return 0;
        size_t taken = take(window, ids, here < size ? here - here / 4 : here);
        if (here == size)
            return 1;
        if (taken == here) /* no token begins where two windows overlap */
            return 0;
        expected = window->ids[taken];
        bytes += taken;
        size -= taken;
    }
}

static int encode(const Merger *self, Window *window, Ids *ids, const uint8_t *bytes, size_t size)
{
    if (!size)
        return 0;
    if (size >= NONE) {
        PyErr_SetString(PyExc_ValueError, "a piece of 4 GiB cannot be encoded");
        return -1;
    }
    if (ids_reserve(ids, size))
        return -1;
    for (size_t length = WINDOW, used = ids->used;; length *= 2) {
        if (window_reserve(window, size < length ? size : length))
            return -1;
        ids->used = used;
        if (encode_windows(self, window, ids, bytes, size, length))
            return PyErr_CheckSignals();
    }
}

static int encode_piece(const Merger *self, Window *window, Ids *ids, PyObject *piece)
{
    char *text;
    Py_ssize_t length;
    if (PyBytes_AsStringAndSize(piece, &text, &length))
        return -1;
    const uint8_t *bytes = (const uint8_t *)text;
    size_t size = (size_t)length, apart = size && *bytes == '\'' ? contraction(bytes, bytes + size) : 0;
    return encode(self, window, ids, bytes, apart) || encode(self, window, ids, bytes + apart, size - apart) ? -1 : 0;
}

static PyObject *merger_encode(Merger *self, PyObject *args)
{
    PyObject *pieces, *counts = NULL, *values = NULL, *result = NULL;
    if (!PyArg_ParseTuple(args, "O!", &PyList_Type, &pieces))
        return NULL;
    Window window = {0};
    Ids ids = {0};
    Py_ssize_t n = PyList_Size(pieces);
    counts = PyByteArray_FromStringAndSize(NULL, n * (Py_ssize_t)sizeof(uint32_t));
    for (Py_ssize_t i = 0; counts && i < n; i++) {
        size_t before = ids.used;
        if (encode_piece(self, &window, &ids, PyList_GetItem(pieces, i)))
            goto done;
        uint32_t count = (uint32_t)(ids.used - before);
        memcpy(PyByteArray_AsString(counts) + (size_t)i * sizeof count, &count, sizeof count);
    }
    values = PyByteArray_FromStringAndSize((char *)ids.data, (Py_ssize_t)(ids.used * sizeof *ids.data));
    if (counts && values)
        result = PyTuple_Pack(2, counts, values);
done:
    Py_XDECREF(counts);
    Py_XDECREF(values);
    window_free(&window);
    free(ids.data);
    return result;
}

/* ---- The object ---- */

static void merger_dealloc(Merger *self)
{
    PyTypeObject *type = Py_TYPE((PyObject *)self);
    free(self->pairs);
    free(self->ranks);
    free(self->made);
    free(self->of_bytes);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(self);
    Py_DECREF(type);
}

/* Enter merges, each the ids of left, right and both; of two of the same pair the later one holds. */
static int enter_merges(Merger *self, const uint32_t *merges, size_t n)
{
    unsigned bits = 4;
    while ((size_t)1 << bits < 2 * n + 1)
        bits++;
    size_t slots = (size_t)1 << bits;
    self->shift = 64 - bits;
    self->mask = slots - 1;
    self->pairs = malloc(slots * sizeof *self->pairs);
    self->ranks = malloc(slots * sizeof *self->ranks);
    self->made = malloc((n + 1) * sizeof *self->made);
    self->of_bytes = malloc(256 * 256 * sizeof *self->of_bytes);
    if (!self->pairs || !self->ranks || !self->made || !self->of_bytes) {
        PyErr_NoMemory();
        return -1;
    }
    for (size_t i = 0; i < slots; i++) {
        self->pairs[i] = FREE;
        self->ranks[i] = NONE;
    }
    for (size_t i = 0; i < n; i++, merges += 3) {
        uint64_t pair = pair_of(merges[0], merges[1]), slot = slot_of(self, pair);
        self->pairs[slot] = pair;
        self->ranks[slot] = (uint32_t)i;
        self->made[i] = merges[2];
    }
    for (size_t i = 0; i < 256 * 256; i++)
        self->of_bytes[i] = rank_of(self, self->of_byte[i >> 8], self->of_byte[i & 255]);
    return 0;
}

static PyObject *merger_new(PyTypeObject *type, PyObject *args, PyObject *Py_UNUSED(keywords))
{
    Py_buffer of_byte, merges;
    if (!PyArg_ParseTuple(args, "y*y*", &of_byte, &merges))
        return NULL;
    Merger *self = NULL;
    size_t n = (size_t)merges.len / (3 * sizeof(uint32_t));
    if ((size_t)of_byte.len != sizeof self->of_byte || merges.len % (Py_ssize_t)(3 * sizeof(uint32_t)) || n >= NONE / 4)
        PyErr_SetString(PyExc_ValueError, "256 ids of bytes are expected, and three ids for each merge");
    else if ((self = (Merger *)((allocfunc)PyType_GetSlot(type, Py_tp_alloc))(type, 0))) {
        memcpy(self->of_byte, of_byte.buf, sizeof self->of_byte);
        if (enter_merges(self, merges.buf, n)) {
            Py_DECREF(self);
            self = NULL;
        }
    }
    PyBuffer_Release(&of_byte);
    PyBuffer_Release(&merges);
    return (PyObject *)self;
}

static PyMethodDef methods[] = {
    {"encode", (PyCFunction)merger_encode, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_new, merger_new},
    {Py_tp_dealloc, merger_dealloc},
    {Py_tp_methods, methods},
    {0, NULL},
};

static PyType_Spec spec = {"epochal.tokenize._merge.Merger", sizeof(Merger), 0, Py_TPFLAGS_DEFAULT, slots};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_merge", NULL, -1, NULL, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__merge(void)
{
    PyObject *made = PyModule_Create(&module), *type = PyType_FromSpec(&spec);
    if (!made || !type || PyModule_AddObject(made, "Merger", type)) {
        Py_XDECREF(made);
        Py_XDECREF(type);
        return NULL;
    }
    return made;
}
