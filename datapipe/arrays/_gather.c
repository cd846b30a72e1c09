/* Pieces of a buffer, put one after the other (see gather.py). */

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>
#include <stdint.h>
#include <string.h>

static inline int64_t number_at(const Py_buffer *view, Py_ssize_t i)
{
    int64_t number;
    memcpy(&number, (const char *)view->buf + i * 8, 8);
    return number;
}

/* Return how many elements the pieces have together, -1 where one is not within `n` elements or all are too many. */
static Py_ssize_t total_of(const Py_buffer *starts, const Py_buffer *lengths, Py_ssize_t n, Py_ssize_t width)
{
    Py_ssize_t total = 0;
    for (Py_ssize_t i = 0; i < starts->len / 8; i++) {
        int64_t start = number_at(starts, i), length = number_at(lengths, i);
        if (start < 0 || length < 0 || start > n || length > n - start || length > PY_SSIZE_T_MAX / width - total)
            return -1;
        total += (Py_ssize_t)length;
    }
    return total;
}

/* gather(data, starts, lengths, width): see _gather.pyi. */
static PyObject *gather(PyObject *Py_UNUSED(module), PyObject *args)
{
    Py_buffer data, starts, lengths;
    Py_ssize_t width;
    if (!PyArg_ParseTuple(args, "y*y*y*n", &data, &starts, &lengths, &width))
        return NULL;
    PyObject *result = NULL;
    Py_ssize_t total = -1;
    if (width > 0 && starts.len == lengths.len && starts.len % 8 == 0)
        total = total_of(&starts, &lengths, data.len / width, width);
    if (total < 0)
        PyErr_SetString(PyExc_ValueError, "a piece is not within the buffer");
    else
        result = PyBytes_FromStringAndSize(NULL, total * width);
    if (result) {
        char *place = PyBytes_AsString(result);
        Py_BEGIN_ALLOW_THREADS
        for (Py_ssize_t i = 0; i < starts.len / 8; i++) {
            size_t size = (size_t)(number_at(&lengths, i) * width);
            if (size)
                memcpy(place, (const char *)data.buf + number_at(&starts, i) * width, size);
            place += size;
        }
        Py_END_ALLOW_THREADS
    }
    PyBuffer_Release(&data);
    PyBuffer_Release(&starts);
    PyBuffer_Release(&lengths);
    return result;
}

static PyMethodDef methods[] = {
    {"gather", gather, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_gather", NULL, -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__gather(void)
{
    return PyModule_Create(&module);
}
