/* The codes of the word fragments of many pieces at once (see words.py, which defines them): each piece is put into lower
   case and divided into runs of characters of one class, and each run is hashed.

   Nothing here knows Unicode: `describe` is asked once for each distinct character. Where lower case is not a matter of
   one character alone, it says so, and `spelled` answers for the whole piece.

   The hash is XXH64 with seed 0 of the fragment's UTF-8, but for its two lowest bits, which are the fragment's edges. It
   is written out here, as its specification has it (xxHash, doc/xxhash_spec.md), so that no call goes through Python.

   Failure. A function that returns int returns 0, or -1 with a Python exception set; one that returns a description 0. */

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "../../tokenize/_array.h"

/* NOTHING: of no word. ALONE: a fragment each, which is joined to nothing. STRANGE: see `spelled`. */
enum { NOTHING = 0, ALONE = 1, LETTERS = 2, DIGITS = 3, MARKS = 4, STRANGE = 7 };
enum { FIRST = 1, LAST = 2 }; /* as in _pieces.c */

#define POINTS 0x110000
#define CLASS_BITS 3
#define KNOWN 0x80000000u /* in a description, beside what `describe` said: its class, and its lower case above that */

typedef struct {
    PyObject_HEAD
    uint32_t *descriptions; /* of every character; 0: not yet asked for */
} Fragments;

/* ---- XXH64 ---- */

#define P1 0x9E3779B185EBCA87u
#define P2 0xC2B2AE3D27D4EB4Fu
#define P3 0x165667B19E3779F9u
#define P4 0x85EBCA77C2B2AE63u
#define P5 0x27D4EB2F165667C5u

static inline uint64_t read32(const uint8_t *p)
{
    return p[0] | (uint64_t)p[1] << 8 | (uint64_t)p[2] << 16 | (uint64_t)p[3] << 24;
}

static inline uint64_t read64(const uint8_t *p)
{
    return read32(p) | read32(p + 4) << 32;
}

static inline uint64_t rotated(uint64_t word, int bits)
{
    return word << bits | word >> (64 - bits);
}

static inline uint64_t mixed(uint64_t lane, uint64_t input)
{
    return rotated(lane + input * P2, 31) * P1;
}

static uint64_t xxh64(const uint8_t *p, size_t size)
{
    const uint8_t *end = p + size;
    uint64_t hash = P5;
    if (size >= 32) {
        uint64_t lanes[4] = {P1 + P2, P2, 0, 0 - P1};
        for (; end - p >= 32; p += 32)
            for (int i = 0; i < 4; i++)
                lanes[i] = mixed(lanes[i], read64(p + 8 * i));
        hash = rotated(lanes[0], 1) + rotated(lanes[1], 7) + rotated(lanes[2], 12) + rotated(lanes[3], 18);
        for (int i = 0; i < 4; i++)
            hash = (hash ^ mixed(0, lanes[i])) * P1 + P4;
    }
    hash += size;
    for (; end - p >= 8; p += 8)
        hash = rotated(hash ^ mixed(0, read64(p)), 27) * P1 + P4;
    if (end - p >= 4) {
        hash = rotated(hash ^ read32(p) * P1, 23) * P2 + P3;
        p += 4;
    }
    for (; p < end; p++)
        hash = rotated(hash ^ *p * P5, 11) * P1;
    hash = (hash ^ hash >> 33) * P2;
    hash = (hash ^ hash >> 29) * P3;
    return hash ^ hash >> 32;
}

/* ---- Characters ---- */

/* Read the character at p and return its length in bytes, 0 where the UTF-8 ends before. */
static inline size_t read_point(const uint8_t *p, const uint8_t *end, uint32_t *point)
{
    size_t length = *p < 0x80 ? 1 : *p < 0xE0 ? 2 : *p < 0xF0 ? 3 : 4;
    if ((size_t)(end - p) < length)
        return 0;
    *point = length == 1 ? *p : *p & (0x7Fu >> length);
    for (size_t i = 1; i < length; i++)
        *point = *point << 6 | (p[i] & 63u);
    return *point < POINTS ? length : 0;
}

/* Write a character and return its length in bytes. */
static inline size_t write_point(uint8_t *p, uint32_t point)
{
    if (point < 0x80) {
        *p = (uint8_t)point;
        return 1;
    }
    size_t length = point < 0x800 ? 2 : point < 0x10000 ? 3 : 4;
    for (size_t i = length - 1; i; i--, point >>= 6)
        p[i] = (uint8_t)(0x80 | (point & 63));
    *p = (uint8_t)(0xF0 << (4 - length) | point);
    return length;
}

/* Ask for the description of a character. */
static uint32_t describe_new(Fragments *self, uint32_t point, PyObject *describe)
{
    PyObject *answer = PyObject_CallFunction(describe, "k", (unsigned long)point);
    if (!answer)
        return 0;
    unsigned long found = PyLong_AsUnsignedLong(answer);
    Py_DECREF(answer);
    if (PyErr_Occurred())
        return 0;
    uint32_t class = found & ((1u << CLASS_BITS) - 1);
    if (found >> CLASS_BITS >= POINTS || (class > MARKS && class != STRANGE)) {
        PyErr_Format(PyExc_ValueError, "no description of a character: %lu", found);
        return 0;
    }
    return self->descriptions[point] = KNOWN | (uint32_t)found;
}

/* ---- Pieces ---- */

/* The codes so far, uint64_t, and the UTF-8 of the fragment that goes on. */
typedef struct {
    Array codes, fragment;
} Work;

static inline int append_code(Work *work, uint64_t code)
{
    if (reserve(&work->codes, sizeof code))
        return -1;
    memcpy(work->codes.data + work->codes.used, &code, sizeof code);
    work->codes.used += sizeof code;
    return 0;
}

static inline int end_fragment(Work *work, uint64_t edges)
{
    uint64_t hash = xxh64((uint8_t *)work->fragment.data, work->fragment.used) & ~(uint64_t)(FIRST | LAST);
    work->fragment.used = 0;
    return append_code(work, hash | edges);
}

/* Append the codes that Python works out for a piece. */
static int append_spelled(Work *work, PyObject *piece, PyObject *spelled)
{
    PyObject *codes = PyObject_CallFunctionObjArgs(spelled, piece, NULL);
    Py_ssize_t n = codes ? PySequence_Size(codes) : -1;
    for (Py_ssize_t i = 0; i < n; i++) {
        PyObject *code = PySequence_GetItem(codes, i);
        uint64_t value = code ? PyLong_AsUnsignedLongLong(code) : 0;
        Py_XDECREF(code);
        if (PyErr_Occurred() || append_code(work, value))
            n = -1;
    }
    Py_XDECREF(codes);
    return n < 0 ? -1 : 0;
}

static int append_codes(Fragments *self, Work *work, PyObject *piece, PyObject *describe, PyObject *spelled)
{
    char *text;
    Py_ssize_t size;
    if (PyBytes_AsStringAndSize(piece, &text, &size))
        return -1;
    const uint8_t *p = (const uint8_t *)text, *end = p + size;
    size_t length, before = work->codes.used;
    uint32_t point, running = NOTHING; /* running: the class of the fragment that goes on */
    uint64_t edges = 0;
    work->fragment.used = 0;
    if (reserve(&work->fragment, 4 * (size_t)size)) /* lower case may be longer than what it is of */
        return -1;
    for (; p < end; p += length) {
        if (!(length = read_point(p, end, &point))) {
            PyErr_SetString(PyExc_ValueError, "a piece is not UTF-8");
            return -1;
        }
        uint32_t description = self->descriptions[point];
        if (!description && !(description = describe_new(self, point, describe)))
            return -1;
        uint32_t class = description & ((1u << CLASS_BITS) - 1);
        if (class == STRANGE) {
            work->codes.used = before;
            return append_spelled(work, piece, spelled);
        }
        if (class != running || class == ALONE) {
            if (running != NOTHING && end_fragment(work, edges))
                return -1;
            edges = class != ALONE && (const char *)p == text ? FIRST : 0;
            running = class;
        }
        if (class != NOTHING)
            work->fragment.used += write_point((uint8_t *)work->fragment.data + work->fragment.used,
                                               (description & ~KNOWN) >> CLASS_BITS);
    }
    return running == NOTHING ? 0 : end_fragment(work, running == ALONE ? 0 : edges | LAST);
}

static PyObject *fragments_codes(Fragments *self, PyObject *args)
{
    PyObject *pieces, *describe, *spelled, *values = NULL, *result = NULL;
    if (!PyArg_ParseTuple(args, "O!OO", &PyList_Type, &pieces, &describe, &spelled))
        return NULL;
    Work work = {0};
    Py_ssize_t n = PyList_Size(pieces);
    PyObject *counts = PyByteArray_FromStringAndSize(NULL, n * (Py_ssize_t)sizeof(uint32_t));
    for (Py_ssize_t i = 0; counts && i < n; i++) {
        size_t before = work.codes.used;
        if (append_codes(self, &work, PyList_GetItem(pieces, i), describe, spelled))
            goto done;
        uint32_t count = (uint32_t)((work.codes.used - before) / sizeof(uint64_t));
        memcpy(PyByteArray_AsString(counts) + (size_t)i * sizeof count, &count, sizeof count);
    }
    values = PyByteArray_FromStringAndSize(work.codes.data, (Py_ssize_t)work.codes.used);
    if (counts && values)
        result = PyTuple_Pack(2, counts, values);
done:
    Py_XDECREF(counts);
    Py_XDECREF(values);
    free(work.codes.data);
    free(work.fragment.data);
    return result;
}

/* ---- The object ---- */

static void fragments_dealloc(Fragments *self)
{
    PyTypeObject *type = Py_TYPE((PyObject *)self);
    free(self->descriptions);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(self);
    Py_DECREF(type);
}

static PyObject *fragments_new(PyTypeObject *type, PyObject *args, PyObject *Py_UNUSED(keywords))
{
    if (!PyArg_ParseTuple(args, ""))
        return NULL;
    Fragments *self = (Fragments *)((allocfunc)PyType_GetSlot(type, Py_tp_alloc))(type, 0);
    if (self && !(self->descriptions = calloc(POINTS, sizeof *self->descriptions))) {
        Py_DECREF(self);
        return PyErr_NoMemory();
    }
    return (PyObject *)self;
}

static PyMethodDef methods[] = {
    {"codes", (PyCFunction)fragments_codes, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_new, fragments_new},
    {Py_tp_dealloc, fragments_dealloc},
    {Py_tp_methods, methods},
    {0, NULL},
};

static PyType_Spec spec = {"epochal.datapipe.text._fragments.Fragments", sizeof(Fragments), 0, Py_TPFLAGS_DEFAULT, slots};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_fragments", NULL, -1, NULL, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__fragments(void)
{
    PyObject *made = PyModule_Create(&module), *type = PyType_FromSpec(&spec);
    if (!made || !type || PyModule_AddIntMacro(made, NOTHING) || PyModule_AddIntMacro(made, STRANGE) ||
        PyModule_AddIntMacro(made, CLASS_BITS) || PyModule_AddObject(made, "Fragments", type)) {
        Py_XDECREF(made);
        Py_XDECREF(type);
        return NULL;
    }
    return made;
}
