/* Growing arrays of bytes. Functions return 0, or -1 with a Python exception set. Include Python.h first. */

#include <stdlib.h>
#include <string.h>

typedef struct {
    char *data;
    size_t used, room; /* bytes */
} Array;

static inline int reserve(Array *array, size_t more)
{
    if (array->used + more <= array->room)
        return 0;
    size_t room = array->room + array->room / 2;
    if (room < array->used + more)
        room = array->used + more + 4096;
    char *data = realloc(array->data, room);
    if (!data) {
        PyErr_NoMemory();
        return -1;
    }
    array->data = data;
    array->room = room;
    return 0;
}

static inline int append(Array *array, const void *data, size_t size)
{
    if (!size)
        return 0;
    if (reserve(array, size))
        return -1;
    memcpy(array->data + array->used, data, size);
    array->used += size;
    return 0;
}
