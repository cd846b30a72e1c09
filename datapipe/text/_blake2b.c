/* BLAKE2b of many short inputs at once (RFC 7693), without a key or with a short one, for document_key.py: a call of
   `hashlib` for each takes several times as long as the hash itself.

   Failure. A function that returns int returns 0, or -1 with a Python exception set. */

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>
#include <stdint.h>
#include <string.h>

#define BLOCK 128
#define MOST_BYTES 64 /* of a digest, and of a key */

static const uint64_t IV[8] = {
    0x6A09E667F3BCC908u, 0xBB67AE8584CAA73Bu, 0x3C6EF372FE94F82Bu, 0xA54FF53A5F1D36F1u,
    0x510E527FADE682D1u, 0x9B05688C2B3E6C1Fu, 0x1F83D9ABFB41BD6Bu, 0x5BE0CD19137E2179u,
};

static const uint8_t SIGMA[10][16] = {
    {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}, {14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3},
    {11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4}, {7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8},
    {9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13}, {2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9},
    {12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11}, {13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10},
    {6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5}, {10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0},
};

/* A hash before its input: `key` is the first block where there is one. */
typedef struct {
    uint64_t start[8], after_key[8];
    uint8_t key[BLOCK];
    int keyed;
    size_t size; /* of a digest */
} Hash;

static inline uint64_t read64(const uint8_t *p)
{
    uint64_t word = 0;
    for (int i = 7; i >= 0; i--)
        word = word << 8 | p[i];
    return word;
}

static inline uint64_t rotated(uint64_t word, int bits)
{
    return word >> bits | word << (64 - bits);
}

#define MIX(a, b, c, d, x, y)                                                                                          \
    do {                                                                                                               \
        v[a] += v[b] + m[x];                                                                                           \
        v[d] = rotated(v[d] ^ v[a], 32);                                                                               \
        v[c] += v[d];                                                                                                  \
        v[b] = rotated(v[b] ^ v[c], 24);                                                                               \
        v[a] += v[b] + m[y];                                                                                           \
        v[d] = rotated(v[d] ^ v[a], 16);                                                                               \
        v[c] += v[d];                                                                                                  \
        v[b] = rotated(v[b] ^ v[c], 63);                                                                               \
    } while (0)

#define ROUND(s)                                                                                                       \
    do {                                                                                                               \
        MIX(0, 4, 8, 12, SIGMA[s][0], SIGMA[s][1]);                                                                    \
        MIX(1, 5, 9, 13, SIGMA[s][2], SIGMA[s][3]);                                                                    \
        MIX(2, 6, 10, 14, SIGMA[s][4], SIGMA[s][5]);                                                                   \
        MIX(3, 7, 11, 15, SIGMA[s][6], SIGMA[s][7]);                                                                   \
        MIX(0, 5, 10, 15, SIGMA[s][8], SIGMA[s][9]);                                                                   \
        MIX(1, 6, 11, 12, SIGMA[s][10], SIGMA[s][11]);                                                                 \
        MIX(2, 7, 8, 13, SIGMA[s][12], SIGMA[s][13]);                                                                  \
        MIX(3, 4, 9, 14, SIGMA[s][14], SIGMA[s][15]);                                                                  \
    } while (0)

/* Take in a block; `count` bytes have been taken in with it. */
static void compress(uint64_t state[8], const uint8_t *block, uint64_t count, int last)
{
    uint64_t m[16], v[16];
    for (int i = 0; i < 16; i++)
        m[i] = read64(block + 8 * i);
    for (int i = 0; i < 8; i++) {
        v[i] = state[i];
        v[i + 8] = IV[i];
    }
    v[12] ^= count;
    v[14] = last ? ~v[14] : v[14];
    ROUND(0);
    ROUND(1);
    ROUND(2);
    ROUND(3);
    ROUND(4);
    ROUND(5);
    ROUND(6);
    ROUND(7);
    ROUND(8);
    ROUND(9);
    ROUND(0);
    ROUND(1);
    for (int i = 0; i < 8; i++)
        state[i] ^= v[i] ^ v[i + 8];
}

/* Write the digest of n bytes. */
static void digest(const Hash *hash, const uint8_t *data, size_t n, uint8_t *out)
{
    uint64_t state[8], count = hash->keyed ? BLOCK : 0;
    uint8_t block[BLOCK] = {0};
    if (hash->keyed && !n) {
        memcpy(state, hash->start, sizeof state);
        compress(state, hash->key, BLOCK, 1);
    } else {
        memcpy(state, hash->after_key, sizeof state);
        for (; n > BLOCK; data += BLOCK, n -= BLOCK)
            compress(state, data, count += BLOCK, 0);
        if (n)
            memcpy(block, data, n);
        compress(state, block, count + n, 1);
    }
    for (size_t i = 0; i < hash->size; i++)
        out[i] = (uint8_t)(state[i / 8] >> 8 * (i % 8));
}

/* Begin: `person` is 16 bytes. */
static int begin(Hash *hash, Py_ssize_t size, const Py_buffer *key, const Py_buffer *person)
{
    if (size < 1 || size > MOST_BYTES || key->len > MOST_BYTES || person->len != 16) {
        PyErr_SetString(PyExc_ValueError, "no such BLAKE2b");
        return -1;
    }
    memset(hash, 0, sizeof *hash);
    hash->size = (size_t)size;
    hash->keyed = key->len > 0;
    if (hash->keyed)
        memcpy(hash->key, key->buf, (size_t)key->len);
    memcpy(hash->start, IV, sizeof IV);
    hash->start[0] ^= 0x01010000u ^ (uint64_t)key->len << 8 ^ (uint64_t)size;
    hash->start[6] ^= read64(person->buf);
    hash->start[7] ^= read64((const uint8_t *)person->buf + 8);
    memcpy(hash->after_key, hash->start, sizeof hash->start);
    if (hash->keyed)
        compress(hash->after_key, hash->key, BLOCK, 0);
    return 0;
}

/* texts(texts, size): see _blake2b.pyi. */
static PyObject *hash_texts(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *texts, *result = NULL;
    Py_ssize_t size;
    if (!PyArg_ParseTuple(args, "O!n", &PyList_Type, &texts, &size))
        return NULL;
    uint8_t zeros[16] = {0};
    Py_buffer no_key = {0}, no_person = {.buf = zeros, .len = 16};
    Hash hash;
    if (begin(&hash, size, &no_key, &no_person))
        return NULL;
    Py_ssize_t n = PyList_Size(texts);
    if (n > PY_SSIZE_T_MAX / size)
        return PyErr_NoMemory();
    result = PyByteArray_FromStringAndSize(NULL, n * size);
    for (Py_ssize_t i = 0; result && i < n; i++) {
        Py_ssize_t length;
        const char *text = PyUnicode_AsUTF8AndSize(PyList_GetItem(texts, i), &length);
        if (text)
            digest(&hash, (const uint8_t *)text, (size_t)length, (uint8_t *)PyByteArray_AsString(result) + i * size);
        else
            Py_CLEAR(result);
    }
    return result;
}

/* rows(data, width, size, key, person): see _blake2b.pyi. */
static PyObject *hash_rows(PyObject *Py_UNUSED(module), PyObject *args)
{
    Py_buffer data, key, person;
    Py_ssize_t width, size;
    if (!PyArg_ParseTuple(args, "y*nny*y*", &data, &width, &size, &key, &person))
        return NULL;
    PyObject *result = NULL;
    Hash hash;
    if (width < 1 || data.len % width || data.len / width > PY_SSIZE_T_MAX / MOST_BYTES)
        PyErr_SetString(PyExc_ValueError, "the data are not rows");
    else if (!begin(&hash, size, &key, &person))
        result = PyByteArray_FromStringAndSize(NULL, data.len / width * size);
    for (Py_ssize_t i = 0; result && i < data.len / width; i++)
        digest(&hash, (const uint8_t *)data.buf + i * width, (size_t)width,
               (uint8_t *)PyByteArray_AsString(result) + i * size);
    PyBuffer_Release(&data);
    PyBuffer_Release(&key);
    PyBuffer_Release(&person);
    return result;
}

static PyMethodDef methods[] = {
    {"texts", hash_texts, METH_VARARGS, NULL},
    {"rows", hash_rows, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_blake2b", NULL, -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__blake2b(void)
{
    return PyModule_Create(&module);
}
