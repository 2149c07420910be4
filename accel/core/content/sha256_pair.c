/* SHA-256 of two buffers of one length at once, with the SHA instructions of x86 processors.
 *
 * One stream of these instructions waits for its own results most of the time: a round takes four cycles and a new one
 * can start every two. Two independent streams fill the gaps and take hardly longer than one. hashlib hashes one buffer
 * per call, so this is the way to hash the chunks of a file at the full rate of the processor.
 *
 * FIPS 180-4; the instructions: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2, SHA256RNDS2.
 * Importing fails where the processor lacks them; accel.core.content.multibuffer then uses hashlib alone.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#if defined(__x86_64__) && defined(__GNUC__)

#include <cpuid.h>
#include <immintrin.h>
#include <stdint.h>
#include <string.h>

static const uint32_t K[64] __attribute__((aligned(64))) = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
};
static const uint32_t START[8] = {
    0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19,
};

enum { LANES = 2, BLOCK = 64 };

/* Takes as many 64-byte blocks of each lane into its state. The instructions want the state as the words ABEF, CDGH. */
__attribute__((target("sha,sse4.1"))) static void compress(uint32_t state[LANES][8], const uint8_t *const from[LANES],
                                                           size_t blocks)
{
    const __m128i swap = _mm_set_epi64x(0x0c0d0e0f08090a0b, 0x0405060700010203);
    const uint8_t *at[LANES];
    __m128i abef[LANES], cdgh[LANES];
    for (int lane = 0; lane < LANES; lane++) {
        __m128i cdab = _mm_shuffle_epi32(_mm_loadu_si128((const __m128i *)&state[lane][0]), 0xB1);
        __m128i efgh = _mm_shuffle_epi32(_mm_loadu_si128((const __m128i *)&state[lane][4]), 0x1B);
        abef[lane] = _mm_alignr_epi8(cdab, efgh, 8);
        cdgh[lane] = _mm_blend_epi16(efgh, cdab, 0xF0);
        at[lane] = from[lane];
    }
    while (blocks--) {
        __m128i first[LANES], second[LANES], words[LANES][4];
#pragma GCC unroll 2
        for (int lane = 0; lane < LANES; lane++) {
            first[lane] = abef[lane];
            second[lane] = cdgh[lane];
#pragma GCC unroll 4
            for (int part = 0; part < 4; part++)
                words[lane][part] = _mm_shuffle_epi8(_mm_loadu_si128((const __m128i *)(at[lane] + 16 * part)), swap);
            at[lane] += BLOCK;
        }
#pragma GCC unroll 16
        for (int step = 0; step < 16; step++) { /* of four rounds */
            const __m128i constants = _mm_load_si128((const __m128i *)&K[4 * step]);
#pragma GCC unroll 2
            for (int lane = 0; lane < LANES; lane++) {
                __m128i *word = words[lane];
                __m128i sum = _mm_add_epi32(word[step & 3], constants);
                cdgh[lane] = _mm_sha256rnds2_epu32(cdgh[lane], abef[lane], sum);
                abef[lane] = _mm_sha256rnds2_epu32(abef[lane], cdgh[lane], _mm_shuffle_epi32(sum, 0x0E));
                if (step < 12) {
                    __m128i next = _mm_sha256msg1_epu32(word[step & 3], word[(step + 1) & 3]);
                    next = _mm_add_epi32(next, _mm_alignr_epi8(word[(step + 3) & 3], word[(step + 2) & 3], 4));
                    word[step & 3] = _mm_sha256msg2_epu32(next, word[(step + 3) & 3]);
                }
            }
        }
#pragma GCC unroll 2
        for (int lane = 0; lane < LANES; lane++) {
            abef[lane] = _mm_add_epi32(abef[lane], first[lane]);
            cdgh[lane] = _mm_add_epi32(cdgh[lane], second[lane]);
        }
    }
    for (int lane = 0; lane < LANES; lane++) {
        __m128i feba = _mm_shuffle_epi32(abef[lane], 0x1B), dchg = _mm_shuffle_epi32(cdgh[lane], 0xB1);
        _mm_storeu_si128((__m128i *)&state[lane][0], _mm_blend_epi16(feba, dchg, 0xF0));
        _mm_storeu_si128((__m128i *)&state[lane][4], _mm_alignr_epi8(dchg, feba, 8));
    }
}

/* The end of a message with its padding: one block or two. */
static size_t padded(uint8_t tail[2 * BLOCK], const uint8_t *message, size_t length)
{
    const size_t rest = length % BLOCK, blocks = rest < BLOCK - 8 ? 1 : 2;
    const uint64_t bits = (uint64_t)length * 8;
    memset(tail, 0, 2 * BLOCK);
    if (rest)
        memcpy(tail, message + length - rest, rest);
    tail[rest] = 0x80;
    for (int byte = 0; byte < 8; byte++)
        tail[BLOCK * blocks - 1 - byte] = (uint8_t)(bits >> 8 * byte);
    return blocks;
}

static void hash_pair(const uint8_t *const messages[LANES], size_t length, uint8_t digests[LANES][32])
{
    uint32_t state[LANES][8];
    uint8_t tails[LANES][2 * BLOCK];
    const uint8_t *const ends[LANES] = {tails[0], tails[1]};
    size_t blocks = 0;
    for (int lane = 0; lane < LANES; lane++) {
        memcpy(state[lane], START, sizeof START);
        blocks = padded(tails[lane], messages[lane], length);
    }
    compress(state, messages, length / BLOCK);
    compress(state, ends, blocks);
    for (int lane = 0; lane < LANES; lane++)
        for (int word = 0; word < 8; word++) {
            const uint32_t big_endian = __builtin_bswap32(state[lane][word]);
            memcpy(digests[lane] + 4 * word, &big_endian, 4);
        }
}

static int supported(void)
{
    unsigned a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_SSE4_1))
        return 0;
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b & (1u << 29));
}

static PyObject *digest_pair(PyObject *module, PyObject *arguments)
{
    Py_buffer one, other;
    uint8_t digests[LANES][32];
    (void)module;
    if (!PyArg_ParseTuple(arguments, "y*y*:digest_pair", &one, &other))
        return NULL;
    if (one.len == other.len) {
        const uint8_t *const messages[LANES] = {one.buf, other.buf};
        Py_BEGIN_ALLOW_THREADS
        hash_pair(messages, (size_t)one.len, digests);
        Py_END_ALLOW_THREADS
    }
    const int equal = one.len == other.len;
    PyBuffer_Release(&one);
    PyBuffer_Release(&other);
    if (!equal) {
        PyErr_SetString(PyExc_ValueError, "the two buffers have different lengths");
        return NULL;
    }
    return Py_BuildValue("y#y#", digests[0], (Py_ssize_t)32, digests[1], (Py_ssize_t)32);
}

#else

static int supported(void) { return 0; }

static PyObject *digest_pair(PyObject *module, PyObject *arguments)
{
    (void)module, (void)arguments;
    return NULL;
}

#endif

static PyMethodDef methods[] = {
    {"digest_pair", digest_pair, METH_VARARGS, "The SHA-256 of two buffers of one length."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, .m_name = "_sha256_pair", .m_size = -1, .m_methods = methods,
};

PyMODINIT_FUNC PyInit__sha256_pair(void)
{
    if (!supported()) {
        PyErr_SetString(PyExc_ImportError, "this processor has no SHA instructions");
        return NULL;
    }
    return PyModule_Create(&definition);
}
