/* GPT-2's contractions, which both the cutting and the merging of pieces know (see pieces.py). */

#include <stddef.h>
#include <stdint.h>

/* Return the length of the contraction at p, where an apostrophe stands: 's, 'd, 'm, 't, 'll, 've or 're; 0: none. */
static inline size_t contraction(const uint8_t *p, const uint8_t *end)
{
    if (end - p >= 2 && (p[1] == 's' || p[1] == 'd' || p[1] == 'm' || p[1] == 't'))
        return 2;
    if (end - p >= 3 && ((p[1] == 'l' && p[2] == 'l') || ((p[1] == 'v' || p[1] == 'r') && p[2] == 'e')))
        return 3;
    return 0;
}
