/* MinHash signatures of many texts at once (see signatures.py, which says what they are).

   Each hash of a text is dealt into one of the signature's values in three rounds, as a rank with the number of the round
   above it; a value is the least that it gets. What no round has reached, in short texts most of it, gets the least of
   a classical MinHash, above all rounds. Every step is a minimum, so the order and the number of equal hashes say
   nothing, and a signature may be made in parts. */

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define ROUNDS 3
#define FRACTION_BITS 30 /* of a value, below the number of the round */
#define FALLBACK ((uint32_t)ROUNDS << FRACTION_BITS)
#define BUCKET_DOMAIN 0x6A09E667F3BCC909u
#define ROUND_DOMAIN 0x3C6EF372FE94F82Bu
#define FALLBACK_DOMAIN 0xBB67AE8584CAA73Bu
#define WORD_STEP 0xA0761D6478BD642Fu /* words.py has the same */
#define RECENT 256 /* hashes of which it is remembered that they were taken */

#define GOLDEN 0x9E3779B97F4A7C15u

static inline uint64_t mix64(uint64_t z)
{
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
}

static inline uint64_t splitmix64(uint64_t z)
{
    return mix64(z + GOLDEN);
}

/* Return a number below `size`, each as likely as the others (Lemire 2019). `unfair` is 2^32 modulo `size`. */
static inline uint32_t bucket_of(uint64_t mixed, uint32_t size, uint32_t unfair)
{
    for (;; mixed = splitmix64(mixed)) {
        uint64_t product = (mixed & UINT32_MAX) * size;
        if ((uint32_t)product >= unfair)
            return (uint32_t)(product >> 32);
    }
}

/* What a signature's values are computed with, and those of them that no round has reached, side by side. */
typedef struct {
    uint32_t size, n_missing, unfair;
    const uint64_t *factors, *summands;
    uint64_t *missing_factors, *missing_summands;
    int32_t *missing_values; /* signed: any processor compares several of these at once */
    uint32_t *missing;
} Signing;

/* Note which values no round has reached. */
static void find_missing(Signing *s, const uint32_t *values)
{
    s->n_missing = 0;
    for (uint32_t j = 0; j < s->size; j++) {
        if (values[j] < FALLBACK)
            continue;
        s->missing_factors[s->n_missing] = s->factors[j];
        s->missing_summands[s->n_missing] = s->summands[j];
        s->missing_values[s->n_missing] = INT32_MAX;
        s->missing[s->n_missing++] = j;
    }
}

static void fall_back(Signing *s, uint32_t *values, const uint64_t *hashes, size_t n)
{
    const uint64_t *restrict factors = s->missing_factors, *restrict summands = s->missing_summands;
    int32_t *restrict least = s->missing_values;
    uint64_t seed = s->factors[0] ^ FALLBACK_DOMAIN, recent[RECENT] = {1}; /* 1 and 0 stand where they are never met */
    for (size_t i = 0; i < n; i++) {
        uint64_t mixed = splitmix64(hashes[i] ^ seed);
        if (recent[mixed % RECENT] == mixed) /* a long text that reaches few values repeats its hashes */
            continue;
        recent[mixed % RECENT] = mixed;
        for (uint32_t j = 0; j < s->n_missing; j++) {
            int32_t value = (int32_t)((factors[j] * mixed + summands[j]) >> (64 - FRACTION_BITS));
            least[j] = value < least[j] ? value : least[j];
        }
    }
    for (uint32_t j = 0; j < s->n_missing; j++)
        values[s->missing[j]] = FALLBACK | (uint32_t)least[j];
}

static int all_below(const uint32_t *values, uint32_t size, uint32_t bound)
{
    uint32_t most = 0;
    for (uint32_t j = 0; j < size; j++)
        most = values[j] > most ? values[j] : most;
    return most < bound;
}

/* Set the values of one text, which has n hashes, at least one. */
static void sign(Signing *s, uint32_t *values, const uint64_t *hashes, size_t n)
{
    for (uint32_t j = 0; j < s->size; j++)
        values[j] = UINT32_MAX;
    for (uint32_t round = 0; round < ROUNDS; round++) {
        uint64_t seed = s->summands[0] ^ BUCKET_DOMAIN ^ round * ROUND_DOMAIN;
        for (size_t i = 0; i < n; i++) {
            uint64_t mixed = splitmix64(hashes[i] ^ seed);
            uint32_t *value = &values[bucket_of(mixed, s->size, s->unfair)];
            uint32_t rank = round << FRACTION_BITS | (uint32_t)(mixed >> (64 - FRACTION_BITS));
            *value = rank < *value ? rank : *value;
        }
        if (all_below(values, s->size, (round + 1) << FRACTION_BITS))
            return;
    }
    find_missing(s, values);
    fall_back(s, values, hashes, n);
}

/* Set the hashes of the runs of n of some words, one for each word but the last n - 1, to mix64 of the sum of the words'
   hashes times the powers of WORD_STEP, that of the last word WORD_STEP^0. */
static void hash_ngrams(uint64_t *ngrams, const uint64_t *words, size_t count, size_t n)
{
    uint64_t sum = 0, power = 1; /* of the first word, and one more */
    for (size_t k = 0; k < n; k++) {
        sum = sum * WORD_STEP + words[k];
        power *= WORD_STEP;
    }
    for (size_t i = 0;; i++) {
        ngrams[i] = mix64(sum);
        if (i + n == count)
            return;
        sum = sum * WORD_STEP + words[i + n] - words[i] * power;
    }
}

/* sign(words, starts, ngram, factors, summands, signatures): see _minhash.pyi. */
static PyObject *minhash_sign(PyObject *Py_UNUSED(module), PyObject *args)
{
    Py_buffer in[4], out;
    Py_ssize_t ngram;
    if (!PyArg_ParseTuple(args, "y*y*ny*y*w*", &in[0], &in[1], &ngram, &in[2], &in[3], &out))
        return NULL;
    const uint64_t *words = in[0].buf;
    const int64_t *starts = in[1].buf;
    int64_t n_words = in[0].len / 8, n = in[1].len / 8 - 1, size = in[2].len / 8, longest = 0;
    int right = n >= 0 && ngram > 0 && size > 0 && size < INT32_MAX && in[3].len == in[2].len &&
                out.len / 4 == n * size;
    for (int64_t i = 0; right && i < n; i++) {
        right = starts[i] >= 0 && starts[i] <= starts[i + 1] && starts[i + 1] <= n_words;
        longest = starts[i + 1] - starts[i] > longest ? starts[i + 1] - starts[i] : longest;
    }
    uint64_t *scratch = right ? malloc(((size_t)size * 3 + (size_t)longest) * sizeof *scratch) : NULL;
    if (scratch) {
        uint64_t *ngrams = scratch + 3 * size;
        Signing s = {(uint32_t)size, 0, (uint32_t)((UINT64_C(1) << 32) % (uint64_t)size), in[2].buf, in[3].buf,
                     scratch, scratch + size, (int32_t *)(scratch + 2 * size), (uint32_t *)(scratch + 2 * size) + size};
        Py_BEGIN_ALLOW_THREADS
        for (int64_t i = 0; i < n; i++) {
            uint32_t *values = (uint32_t *)out.buf + i * size;
            int64_t count = starts[i + 1] - starts[i];
            if (count < ngram) {
                memset(values, 0, (size_t)size * sizeof *values);
                continue;
            }
            hash_ngrams(ngrams, words + starts[i], (size_t)count, (size_t)ngram);
            sign(&s, values, ngrams, (size_t)(count - ngram + 1));
        }
        Py_END_ALLOW_THREADS
    } else if (right) {
        PyErr_NoMemory();
    } else {
        PyErr_SetString(PyExc_ValueError, "the arrays do not fit together");
    }
    for (int i = 0; i < 4; i++)
        PyBuffer_Release(&in[i]);
    PyBuffer_Release(&out);
    free(scratch);
    return scratch ? Py_NewRef(Py_None) : NULL;
}

/* fold(signatures, values): see _minhash.pyi. */
static PyObject *minhash_fold(PyObject *Py_UNUSED(module), PyObject *args)
{
    Py_buffer in, out;
    if (!PyArg_ParseTuple(args, "y*w*", &in, &out))
        return NULL;
    const uint32_t *signatures = in.buf;
    uint64_t *values = out.buf;
    Py_ssize_t n = in.len / 4, m = out.len / 8, size = m ? n / m : 0;
    int right = n == m * size;
    Py_BEGIN_ALLOW_THREADS
    for (Py_ssize_t i = 0; right && i < m; i++) {
        uint64_t hash = 0;
        for (Py_ssize_t j = 0; j < size; j++)
            hash = hash * GOLDEN + signatures[i * size + j];
        values[i] = mix64(hash);
    }
    Py_END_ALLOW_THREADS
    PyBuffer_Release(&in);
    PyBuffer_Release(&out);
    if (!right)
        return PyErr_Format(PyExc_ValueError, "the arrays do not fit together");
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"fold", minhash_fold, METH_VARARGS, NULL},
    {"sign", minhash_sign, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_minhash", NULL, -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__minhash(void)
{
    return PyModule_Create(&module);
}
