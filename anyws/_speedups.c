/* The inner loops of the fast lane, in C. Optional: `_protocol/masking.py` and `_protocol/codec.py`
 * have the same in Python, say what each function does, and choose.
 *
 * A payload is unmasked straight into the object that is returned: one allocation, one pass. The
 * functions have no state, so nothing to lock: interpreters and threads do not meet here. A
 * `Payload` is its connection's, and used by one thread at a time. What is read is held by a
 * reference or an exported buffer meanwhile.
 *
 * The mask is put on eight bytes at a time through memcpy, which compilers turn into plain loads
 * and stores of any alignment, and the loop into vector instructions. The key stays bytes in
 * memory, so byte order plays no part, except in lengths, which are read byte by byte.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <structmember.h>

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define FIN 0x80
#define RSV1 0x40
#define OPCODE 0x0F
#define TEXT 0x1
#define BINARY 0x2
#define MASKED 0x80
#define KEY_BYTES 4
#define LARGEST_HEAD 14

/* Text up to this size is unmasked on the stack. */
#define SMALL_TEXT 512
/* Larger text is looked at so often: is it still ASCII? */
#define TEXT_BLOCK 4096
#define HIGH_BITS UINT64_C(0x8080808080808080)

/* --- Buffers --- */

typedef struct {
    const unsigned char *bytes;
    Py_ssize_t size;
    Py_buffer view; /* `view.obj` is NULL where nothing is to be released */
} Source;

/* The caller holds a reference to `object` until `release`. */
static inline int
acquire(PyObject *object, Source *source)
{
    if (PyBytes_CheckExact(object)) {
        source->bytes = (const unsigned char *)PyBytes_AS_STRING(object);
        source->size = PyBytes_GET_SIZE(object);
        source->view.obj = NULL;
        return 0;
    }
    if (PyObject_GetBuffer(object, &source->view, PyBUF_SIMPLE) < 0) {
        return -1;
    }
    source->bytes = source->view.buf;
    source->size = source->view.len;
    return 0;
}

static inline void
release(Source *source)
{
    if (source->view.obj != NULL) {
        PyBuffer_Release(&source->view);
    }
}

/* --- Masking --- */

/* Eight bytes of key for a payload whose byte 0 needs the key's byte `phase`. */
static inline uint64_t
widen(const unsigned char *key, Py_ssize_t phase)
{
    unsigned char turned[2 * KEY_BYTES];
    uint64_t wide;

    for (Py_ssize_t i = 0; i < KEY_BYTES; i++) {
        turned[i] = turned[i + KEY_BYTES] = key[(phase + i) % KEY_BYTES];
    }
    memcpy(&wide, turned, sizeof(wide));
    return wide;
}

/* Returns all the bytes of the result ORed: no high bit among them means ASCII. */
static inline uint64_t
xor_into(unsigned char *to, const unsigned char *from, Py_ssize_t size, uint64_t key)
{
    uint64_t seen = 0;
    unsigned char rest = 0;
    unsigned char turned[sizeof(key)];
    Py_ssize_t i = 0;

    for (; i <= size - 8; i += 8) {
        uint64_t word;

        memcpy(&word, from + i, 8);
        word ^= key;
        seen |= word;
        memcpy(to + i, &word, 8);
    }
    memcpy(turned, &key, sizeof(key));
    for (Py_ssize_t j = 0; i < size; i++, j++) {
        rest |= to[i] = from[i] ^ turned[j];
    }
    return seen | rest;
}

/* The key of an argument that may be None: then `present` is 0. */
static int
read_key(PyObject *object, uint64_t *wide, unsigned char *key, int *present)
{
    Source source;
    Py_ssize_t size;

    *present = object != Py_None;
    if (!*present) {
        return 0;
    }
    if (acquire(object, &source) < 0) {
        return -1;
    }
    size = source.size;
    if (size == KEY_BYTES) {
        memcpy(key, source.bytes, KEY_BYTES);
    }
    release(&source);
    if (size != KEY_BYTES) {
        PyErr_SetString(PyExc_ValueError, "a masking key has four bytes");
        return -1;
    }
    *wide = widen(key, 0);
    return 0;
}

static int
check_count(const char *name, Py_ssize_t given, Py_ssize_t wanted)
{
    if (given == wanted) {
        return 0;
    }
    PyErr_Format(PyExc_TypeError, "%s() takes %zd arguments (%zd given)", name, wanted, given);
    return -1;
}

static PyObject *
mask(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t count)
{
    unsigned char key[KEY_BYTES];
    uint64_t wide = 0;
    int present;
    Source data;
    PyObject *result;

    if (check_count("mask", count, 2) < 0) {
        return NULL;
    }
    if (args[1] == Py_None) {
        PyErr_SetString(PyExc_TypeError, "mask() needs a key");
        return NULL;
    }
    if (read_key(args[1], &wide, key, &present) < 0 || acquire(args[0], &data) < 0) {
        return NULL;
    }
    result = PyBytes_FromStringAndSize(NULL, data.size);
    if (result != NULL) {
        xor_into((unsigned char *)PyBytes_AS_STRING(result), data.bytes, data.size, wide);
    }
    release(&data);
    return result;
}

/* --- Reading --- */

static PyObject *
read_bytes(const unsigned char *payload, Py_ssize_t size, const uint64_t *key)
{
    PyObject *result;

    if (key == NULL) {
        return PyBytes_FromStringAndSize((const char *)payload, size);
    }
    result = PyBytes_FromStringAndSize(NULL, size);
    if (result != NULL) {
        xor_into((unsigned char *)PyBytes_AS_STRING(result), payload, size, *key);
    }
    return result;
}

/* A new str, or NULL without an error where the text is not ASCII. */
static PyObject *
read_ascii(const unsigned char *payload, Py_ssize_t size, uint64_t key)
{
    PyObject *result = PyUnicode_New(size, 0x7F);
    unsigned char *to;

    if (result == NULL) {
        return NULL;
    }
    to = PyUnicode_1BYTE_DATA(result);
    for (Py_ssize_t done = 0; done < size; done += TEXT_BLOCK) {
        Py_ssize_t block = Py_MIN(TEXT_BLOCK, size - done);

        if (xor_into(to + done, payload + done, block, key) & HIGH_BITS) {
            Py_DECREF(result);
            return NULL;
        }
    }
    return result;
}

static PyObject *
read_text(const unsigned char *payload, Py_ssize_t size, const uint64_t *key)
{
    unsigned char small[SMALL_TEXT];
    unsigned char *scratch = small;
    PyObject *result;

    if (key == NULL) {
        return PyUnicode_DecodeUTF8((const char *)payload, size, NULL);
    }
    if (size > SMALL_TEXT) {
        result = read_ascii(payload, size, *key);
        if (result != NULL || PyErr_Occurred()) {
            return result;
        }
        scratch = PyMem_Malloc((size_t)size);
        if (scratch == NULL) {
            return PyErr_NoMemory();
        }
    }
    xor_into(scratch, payload, size, *key);
    result = PyUnicode_DecodeUTF8((const char *)scratch, size, NULL);
    if (scratch != small) {
        PyMem_Free(scratch);
    }
    return result;
}

static PyObject *
read_compressed(long opcode, const unsigned char *payload, Py_ssize_t size, const uint64_t *key)
{
    PyObject *kind = PyLong_FromLong(opcode);
    PyObject *bytes = kind == NULL ? NULL : read_bytes(payload, size, key);
    PyObject *result = bytes == NULL ? NULL : PyTuple_New(2);

    if (result == NULL) {
        Py_XDECREF(kind);
        Py_XDECREF(bytes);
        return NULL;
    }
    PyTuple_SET_ITEM(result, 0, kind);
    PyTuple_SET_ITEM(result, 1, bytes);
    return result;
}

typedef struct {
    int masked;
    Py_ssize_t limit;
    Py_ssize_t compressed_limit;
} Rules;

typedef struct {
    unsigned char first;
    Py_ssize_t body; /* where the payload begins */
    Py_ssize_t size; /* of the payload */
} Frame;

static inline uint64_t
big_endian(const unsigned char *bytes, int count)
{
    uint64_t number = 0;

    for (int i = 0; i < count; i++) {
        number = number << 8 | bytes[i];
    }
    return number;
}

/* Whether a frame that can be taken is there, whole, at `start` (RFC 6455, section 5.2). */
static inline int
find_frame(const Source *data, Py_ssize_t start, const Rules *rules, Frame *frame)
{
    const unsigned char *head;
    Py_ssize_t left, bound, size = 2;
    uint64_t length;

    /* Not `start + 2`, which may overflow. */
    if (start > data->size - 2) {
        return 0;
    }
    head = data->bytes + start;
    left = data->size - start;
    bound = rules->limit;
    frame->first = head[0];
    if (head[0] & RSV1) {
        bound = rules->compressed_limit;
        if (bound < -1) {
            return 0;
        }
    }
    if ((head[0] & ~RSV1) != (FIN | TEXT) && (head[0] & ~RSV1) != (FIN | BINARY)) {
        return 0;
    }
    if (((head[1] & MASKED) != 0) != rules->masked) {
        return 0;
    }
    length = head[1] & 0x7F;
    if (length == 126) {
        size = 4;
        if (left < size || (length = big_endian(head + 2, 2)) < 126) {
            return 0;
        }
    }
    else if (length == 127) {
        size = 10;
        if (left < size || (length = big_endian(head + 2, 8)) <= 0xFFFF) {
            return 0;
        }
    }
    if (rules->masked) {
        size += KEY_BYTES;
    }
    /* A length with its highest bit set is larger than all there can be. */
    if (left < size || length > (uint64_t)(left - size)) {
        return 0;
    }
    if (bound >= 0 && length > (uint64_t)bound) {
        return 0;
    }
    frame->body = start + size;
    frame->size = (Py_ssize_t)length;
    return 1;
}

static inline PyObject *
read_payload(const Source *data, const Frame *frame, int masked)
{
    const unsigned char *payload = data->bytes + frame->body;
    uint64_t wide;
    const uint64_t *key = NULL;

    if (masked) {
        wide = widen(payload - KEY_BYTES, 0);
        key = &wide;
    }
    if (frame->first & RSV1) {
        return read_compressed(frame->first & OPCODE, payload, frame->size, key);
    }
    if ((frame->first & OPCODE) == TEXT) {
        return read_text(payload, frame->size, key);
    }
    return read_bytes(payload, frame->size, key);
}

/* (messages, position, taken), or NULL; takes the reference to `messages` over. */
static PyObject *
pack_result(PyObject *messages, Py_ssize_t position, Py_ssize_t taken)
{
    PyObject *second = PyLong_FromSsize_t(position);
    PyObject *third = second == NULL ? NULL : PyLong_FromSsize_t(taken);
    PyObject *result = third == NULL ? NULL : PyTuple_New(3);

    if (result == NULL) {
        Py_DECREF(messages);
        Py_XDECREF(second);
        Py_XDECREF(third);
        return NULL;
    }
    PyTuple_SET_ITEM(result, 0, messages);
    PyTuple_SET_ITEM(result, 1, second);
    PyTuple_SET_ITEM(result, 2, third);
    return result;
}

/* Numbers beyond what a size can be are as good as the largest size. */
static inline int
read_size(PyObject *object, Py_ssize_t *size)
{
    *size = PyNumber_AsSsize_t(object, NULL);
    return *size == -1 && PyErr_Occurred() ? -1 : 0;
}

static PyObject *
read_frames(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t count)
{
    Py_ssize_t start, max_messages, max_bytes, taken = 0;
    Rules rules;
    Frame frame;
    Source data;
    PyObject *messages, *message;

    if (check_count("read_frames", count, 7) < 0 || read_size(args[1], &start) < 0
        || read_size(args[3], &rules.limit) < 0 || read_size(args[4], &rules.compressed_limit) < 0
        || read_size(args[5], &max_messages) < 0 || read_size(args[6], &max_bytes) < 0
        || (rules.masked = PyObject_IsTrue(args[2])) < 0) {
        return NULL;
    }
    if (start < 0) {
        PyErr_SetString(PyExc_ValueError, "the start is negative");
        return NULL;
    }
    messages = PyList_New(0);
    if (messages == NULL) {
        return NULL;
    }
    if (acquire(args[0], &data) < 0) {
        Py_DECREF(messages);
        return NULL;
    }
    while (PyList_GET_SIZE(messages) < max_messages && taken < max_bytes
           && find_frame(&data, start, &rules, &frame)) {
        message = read_payload(&data, &frame, rules.masked);
        if (message == NULL) {
            if (!PyErr_ExceptionMatches(PyExc_UnicodeDecodeError)) {
                goto failed;
            }
            PyErr_Clear();
            break;
        }
        if (PyList_Append(messages, message) < 0) {
            Py_DECREF(message);
            goto failed;
        }
        Py_DECREF(message);
        taken += frame.size;
        start = frame.body + frame.size;
    }
    release(&data);
    return pack_result(messages, start, taken);

failed:
    release(&data);
    Py_DECREF(messages);
    return NULL;
}

/* --- Building --- */

/* Returns the size of the head, the key included. */
static inline Py_ssize_t
write_head(unsigned char *head, unsigned char first, Py_ssize_t length, const unsigned char *key)
{
    unsigned char mask_bit = key == NULL ? 0 : MASKED;
    int length_bytes = 0;

    head[0] = first;
    if (length < 126) {
        head[1] = mask_bit | (unsigned char)length;
    }
    else {
        length_bytes = length <= 0xFFFF ? 2 : 8;
        head[1] = mask_bit | (length_bytes == 2 ? 126 : 127);
        for (int i = 0; i < length_bytes; i++) {
            head[2 + i] = (unsigned char)((uint64_t)length >> 8 * (length_bytes - 1 - i));
        }
    }
    if (key == NULL) {
        return 2 + length_bytes;
    }
    memcpy(head + 2 + length_bytes, key, KEY_BYTES);
    return 2 + length_bytes + KEY_BYTES;
}

static PyObject *
build_frame(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t count)
{
    unsigned char key[KEY_BYTES], head[LARGEST_HEAD];
    unsigned char *to;
    uint64_t wide = 0;
    int present;
    Py_ssize_t first, head_size;
    Source payload;
    PyObject *result = NULL;

    if (check_count("build_frame", count, 3) < 0 || read_size(args[0], &first) < 0
        || read_key(args[2], &wide, key, &present) < 0) {
        return NULL;
    }
    if (first < 0 || first > 0xFF) {
        PyErr_SetString(PyExc_ValueError, "the first byte is not from 0 to 255");
        return NULL;
    }
    if (acquire(args[1], &payload) < 0) {
        return NULL;
    }
    head_size = write_head(head, (unsigned char)first, payload.size, present ? key : NULL);
    if (payload.size > PY_SSIZE_T_MAX - head_size) {
        PyErr_NoMemory();
    }
    else {
        result = PyBytes_FromStringAndSize(NULL, head_size + payload.size);
    }
    if (result != NULL) {
        to = (unsigned char *)PyBytes_AS_STRING(result);
        memcpy(to, head, (size_t)head_size);
        if (present) {
            xor_into(to + head_size, payload.bytes, payload.size, wide);
        }
        else if (payload.size > 0) {
            memcpy(to + head_size, payload.bytes, (size_t)payload.size);
        }
    }
    release(&payload);
    return result;
}

/* --- Payloads that arrive in pieces --- */

typedef struct {
    PyObject_HEAD
    PyObject *bytes; /* being filled, and nobody else's; NULL when it was taken */
    Py_ssize_t size;
    Py_ssize_t received;
    int masked;
    unsigned char key[KEY_BYTES];
} Payload;

static PyObject *
payload_new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    Py_ssize_t size;
    PyObject *key_object;
    uint64_t wide;
    Payload *self;

    if (keywords != NULL && PyDict_GET_SIZE(keywords) > 0) {
        PyErr_SetString(PyExc_TypeError, "Payload() takes no keyword arguments");
        return NULL;
    }
    if (!PyArg_ParseTuple(args, "nO:Payload", &size, &key_object)) {
        return NULL;
    }
    if (size < 0) {
        PyErr_SetString(PyExc_ValueError, "the size is negative");
        return NULL;
    }
    self = (Payload *)type->tp_alloc(type, 0);
    if (self == NULL) {
        return NULL;
    }
    self->size = size;
    if (read_key(key_object, &wide, self->key, &self->masked) < 0
        || (self->bytes = PyBytes_FromStringAndSize(NULL, size)) == NULL) {
        Py_DECREF(self);
        return NULL;
    }
    return (PyObject *)self;
}

static void
payload_dealloc(PyObject *object)
{
    PyTypeObject *type = Py_TYPE(object);

    Py_XDECREF(((Payload *)object)->bytes);
    type->tp_free(object);
    Py_DECREF(type);
}

static int
check_not_taken(const Payload *self)
{
    if (self->bytes != NULL) {
        return 0;
    }
    PyErr_SetString(PyExc_ValueError, "the payload was taken");
    return -1;
}

static PyObject *
payload_add(PyObject *object, PyObject *piece)
{
    Payload *self = (Payload *)object;
    Source data;
    Py_ssize_t size;
    unsigned char *to;

    if (check_not_taken(self) < 0 || acquire(piece, &data) < 0) {
        return NULL;
    }
    size = Py_MIN(data.size, self->size - self->received);
    to = (unsigned char *)PyBytes_AS_STRING(self->bytes) + self->received;
    if (self->masked) {
        xor_into(to, data.bytes, size, widen(self->key, self->received % KEY_BYTES));
    }
    else if (size > 0) {
        memcpy(to, data.bytes, (size_t)size);
    }
    self->received += size;
    release(&data);
    return PyLong_FromSsize_t(size);
}

static PyObject *
payload_take(PyObject *object, PyObject *as_text)
{
    Payload *self = (Payload *)object;
    int is_text = PyObject_IsTrue(as_text);
    PyObject *result;

    if (is_text < 0 || check_not_taken(self) < 0) {
        return NULL;
    }
    if (self->received < self->size) {
        PyErr_SetString(PyExc_ValueError, "the payload is not complete");
        return NULL;
    }
    if (!is_text) {
        result = self->bytes;
        self->bytes = NULL;
        return result;
    }
    result = PyUnicode_DecodeUTF8(PyBytes_AS_STRING(self->bytes), self->size, NULL);
    if (result != NULL) {
        Py_CLEAR(self->bytes);
    }
    return result;
}

static PyObject *
payload_wire(PyObject *object, PyObject *Py_UNUSED(nothing))
{
    Payload *self = (Payload *)object;
    uint64_t wide;

    if (check_not_taken(self) < 0) {
        return NULL;
    }
    wide = widen(self->key, 0);
    return read_bytes((const unsigned char *)PyBytes_AS_STRING(self->bytes), self->received,
                      self->masked ? &wide : NULL);
}

static PyMethodDef payload_methods[] = {
    {"add", payload_add, METH_O, "add($self, data, /)\n--\n\nSee the twin."},
    {"take", payload_take, METH_O, "take($self, as_text, /)\n--\n\nSee the twin."},
    {"wire", payload_wire, METH_NOARGS, "wire($self, /)\n--\n\nSee the twin."},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef payload_members[] = {
    {"size", T_PYSSIZET, offsetof(Payload, size), READONLY, "Bytes in all."},
    {"received", T_PYSSIZET, offsetof(Payload, received), READONLY, "Bytes so far."},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot payload_slots[] = {
    {Py_tp_doc, "Payload(size, key, /)\n--\n\nSee its twin in `anyws._protocol`."},
    {Py_tp_new, payload_new},
    {Py_tp_dealloc, payload_dealloc},
    {Py_tp_methods, payload_methods},
    {Py_tp_members, payload_members},
    {0, NULL},
};

static PyType_Spec payload_spec = {
    .name = "anyws._speedups.Payload",
    .basicsize = sizeof(Payload),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = payload_slots,
};

/* --- The module --- */

#define FUNCTION(function, arguments)                                                            \
    {#function, (PyCFunction)(void (*)(void))function, METH_FASTCALL,                            \
     #function arguments "\n--\n\nSee its twin in `anyws._protocol`."}

static PyMethodDef functions[] = {
    FUNCTION(mask, "(data, key, /)"),
    FUNCTION(read_frames, "(data, start, masked, limit, compressed_limit, max_messages,"
                          " max_bytes, /)"),
    FUNCTION(build_frame, "(first, payload, key, /)"),
    {NULL, NULL, 0, NULL},
};

static int
add_types(PyObject *module)
{
    PyObject *type = PyType_FromModuleAndSpec(module, &payload_spec, NULL);
    int result = type == NULL ? -1 : PyModule_AddType(module, (PyTypeObject *)type);

    Py_XDECREF(type);
    return result;
}

static PyModuleDef_Slot slots[] = {
    {Py_mod_exec, add_types},
#if PY_VERSION_HEX >= 0x030C0000
    {Py_mod_multiple_interpreters, Py_MOD_PER_INTERPRETER_GIL_SUPPORTED},
#endif
#if PY_VERSION_HEX >= 0x030D0000
    {Py_mod_gil, Py_MOD_GIL_NOT_USED},
#endif
    {0, NULL},
};

static PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "anyws._speedups",
    .m_doc = "The inner loops of the fast lane.",
    .m_size = 0,
    .m_methods = functions,
    .m_slots = slots,
};

PyMODINIT_FUNC
PyInit__speedups(void)
{
    return PyModuleDef_Init(&definition);
}
