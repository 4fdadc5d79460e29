/* ringq.native._ring: the module, its functions, and what its types share. */
#include "binding.h"

#include <errno.h>
#include <sys/mman.h>
#include <sys/stat.h>

/* -- arguments --------------------------------------------------------------------------------------------------- */

int parse_unsigned(PyObject *value, const char *name, uint64_t max, uint64_t *parsed)
{
    if (!PyLong_Check(value)) {
        PyErr_Format(PyExc_TypeError, "%s: expected an int, got %.100s", name, Py_TYPE(value)->tp_name);
        return -1;
    }
    unsigned long long number = PyLong_AsUnsignedLongLong(value);
    if (PyErr_Occurred()) {
        if (!PyErr_ExceptionMatches(PyExc_OverflowError)) {
            return -1;
        }
        PyErr_Clear();
    } else if (number <= max) {
        *parsed = number;
        return 0;
    }
    PyErr_Format(PyExc_ValueError, "%s: expected 0 to %llu, got %R", name, (unsigned long long)max, value);
    return -1;
}

int parse_signed(PyObject *value, const char *name, int64_t *parsed)
{
    if (!PyLong_Check(value)) {
        PyErr_Format(PyExc_TypeError, "%s: expected an int, got %.100s", name, Py_TYPE(value)->tp_name);
        return -1;
    }
    int overflow;
    *parsed = PyLong_AsLongLongAndOverflow(value, &overflow);
    if (overflow != 0) {
        PyErr_Format(PyExc_ValueError, "%s: expected 64 bits, got %R", name, value);
        return -1;
    }
    return *parsed == -1 && PyErr_Occurred() ? -1 : 0;
}

int check_count(const char *method, Py_ssize_t got, Py_ssize_t least, Py_ssize_t most)
{
    if (got < least || got > most) {
        PyErr_Format(PyExc_TypeError, "%s: expected %zd to %zd arguments, got %zd", method, least, most, got);
        return -1;
    }
    return 0;
}

int parse_identity(struct rq_identity *id, Py_buffer *uuid, PyObject *epoch, PyObject *nonce)
{
    if (uuid->len != (Py_ssize_t)sizeof id->uuid) {
        PyErr_Format(PyExc_ValueError, "uuid: expected 16 bytes, got %zd", uuid->len);
        return -1;
    }
    memcpy(id->uuid, uuid->buf, sizeof id->uuid);
    return parse_unsigned(epoch, "epoch", UINT64_MAX, &id->epoch) < 0 ||
                   parse_unsigned(nonce, "nonce", UINT64_MAX, &id->nonce) < 0
               ? -1
               : 0;
}

static int parse_blocks(struct rq_geometry *g, PyObject *blocks)
{
    PyObject *classes = PySequence_Tuple(blocks);
    if (classes == NULL) {
        return -1;
    }
    Py_ssize_t count = PyTuple_GET_SIZE(classes);
    int result = count <= (Py_ssize_t)RQ_BLOCK_CLASSES_MAX ? 0 : -1;
    if (result < 0) {
        PyErr_Format(PyExc_ValueError, "blocks: expected at most %u classes, got %zd", RQ_BLOCK_CLASSES_MAX, count);
    }
    for (Py_ssize_t i = 0; result == 0 && i < count; i++) {
        PyObject *pair = PyTuple_GET_ITEM(classes, i);
        uint64_t bytes = 0, number = 0;
        if (!PyTuple_Check(pair) || PyTuple_GET_SIZE(pair) != 2) {
            PyErr_SetString(PyExc_TypeError, "blocks: expected tuples of bytes and count");
            result = -1;
        } else if (parse_unsigned(PyTuple_GET_ITEM(pair, 0), "blocks: bytes", UINT32_MAX, &bytes) < 0 ||
                   parse_unsigned(PyTuple_GET_ITEM(pair, 1), "blocks: count", UINT32_MAX, &number) < 0) {
            result = -1;
        } else {
            g->blocks[i] = (struct rq_block_class){(uint32_t)bytes, (uint32_t)number};
            g->block_classes = (uint32_t)i + 1;
        }
    }
    Py_DECREF(classes);
    return result;
}

int parse_shape(struct rq_geometry *g, PyObject *slots, PyObject *workers, PyObject *blocks, PyObject *ring_bytes)
{
    uint64_t slot_count, worker_count, ring;
    char why[RQ_WHY_BYTES];
    memset(g, 0, sizeof *g);
    if (parse_unsigned(slots, "slots", UINT32_MAX, &slot_count) < 0 ||
        parse_unsigned(workers, "workers", UINT32_MAX, &worker_count) < 0 ||
        parse_unsigned(ring_bytes, "result_ring_bytes", UINT32_MAX, &ring) < 0 || parse_blocks(g, blocks) < 0) {
        return -1;
    }
    g->slots = (uint32_t)slot_count;
    g->workers = (uint32_t)worker_count;
    g->result_ring_bytes = (uint32_t)ring;
    if (!rq_geometry_plan(g, why)) {
        PyErr_SetString(PyExc_ValueError, why);
        return -1;
    }
    return 0;
}

/* -- mappings ---------------------------------------------------------------------------------------------------- */

int map_segment(struct mapping *mapping, int fd, PyObject *size, bool writable)
{
    struct stat status;
    uint64_t bytes;
    if (parse_unsigned(size, "size", PY_SSIZE_T_MAX, &bytes) < 0) {
        return -1;
    }
    if (fstat(fd, &status) != 0) {
        PyErr_SetFromErrno(PyExc_OSError);
        return -1;
    }
    if (bytes == 0 || status.st_size < 0 || (uint64_t)status.st_size < bytes) { /* beyond the file is SIGBUS */
        PyErr_Format(PyExc_ValueError, "size: the file has %lld bytes, not %llu", (long long)status.st_size,
                     (unsigned long long)bytes);
        return -1;
    }
    void *memory = mmap(NULL, bytes, writable ? PROT_READ | PROT_WRITE : PROT_READ, MAP_SHARED, fd, 0);
    if (memory == MAP_FAILED) {
        PyErr_SetFromErrno(PyExc_OSError);
        return -1;
    }
    if (madvise(memory, bytes, MADV_DONTFORK) != 0) {
        PyErr_SetFromErrno(PyExc_OSError);
        munmap(memory, bytes);
        return -1;
    }
    *mapping = (struct mapping){.memory = memory, .bytes = bytes, .forks = rq_forks()};
    return 0;
}

void unmap_segment(struct mapping *mapping)
{
    /* in a forked child something else may be mapped there by now */
    if (mapping->memory != NULL && mapping->forks == rq_forks()) {
        munmap(mapping->memory, mapping->bytes);
    }
    mapping->memory = NULL;
}

int check_not_forked(const struct mapping *mapping)
{
    if (mapping->forks != rq_forks()) {
        PyErr_SetString(PyExc_RuntimeError, "ringq: this process was forked from the one that opened the ring; "
                                            "start it with exec (subprocess) instead");
        return -1;
    }
    return 0;
}

/* -- rows -------------------------------------------------------------------------------------------------------- */

int harvest_begin(struct harvest *harvest)
{
    harvest->rows = PyList_New(0);
    harvest->spilled = PyList_New(0);
    harvest->damaged = PyList_New(0);
    if (harvest->rows == NULL || harvest->spilled == NULL || harvest->damaged == NULL) {
        harvest_drop(harvest);
        return -1;
    }
    return 0;
}

void harvest_drop(struct harvest *harvest)
{
    Py_CLEAR(harvest->rows);
    Py_CLEAR(harvest->spilled);
    Py_CLEAR(harvest->damaged);
}

static int append_new(PyObject *list, PyObject *element)
{
    if (element == NULL) {
        return -1;
    }
    int result = PyList_Append(list, element);
    Py_DECREF(element);
    return result;
}

static PyObject *measure(int64_t value)
{
    return value < 0 ? Py_NewRef(Py_None) : PyLong_FromLongLong(value);
}

/* A row in the order of the INSERT; steals `result` and `error`. */
static PyObject *row_tuple(const struct rq_row *row, PyObject *result, PyObject *error)
{
    PyObject *tuple = PyTuple_New(13);
    if (tuple == NULL) {
        Py_DECREF(result);
        Py_DECREF(error);
        return NULL;
    }
    PyTuple_SET_ITEM(tuple, 0, PyLong_FromLongLong(row->task_id));
    PyTuple_SET_ITEM(tuple, 1, PyLong_FromUnsignedLongLong(row->lease));
    PyTuple_SET_ITEM(tuple, 2, PyLong_FromUnsignedLong(row->kind));
    PyTuple_SET_ITEM(tuple, 3, PyLong_FromUnsignedLong(row->attempt));
    PyTuple_SET_ITEM(tuple, 4, PyLong_FromLong(row->status));
    PyTuple_SET_ITEM(tuple, 5, PyLong_FromLong(row->reason));
    PyTuple_SET_ITEM(tuple, 6, PyLong_FromLongLong(row->ended_us));
    PyTuple_SET_ITEM(tuple, 7, PyLong_FromLongLong(row->duration_us));
    PyTuple_SET_ITEM(tuple, 8, PyLong_FromUnsignedLong(row->worker));
    PyTuple_SET_ITEM(tuple, 9, measure(row->cpu_us));
    PyTuple_SET_ITEM(tuple, 10, measure(row->rss_kib));
    PyTuple_SET_ITEM(tuple, 11, result);
    PyTuple_SET_ITEM(tuple, 12, error);
    for (Py_ssize_t i = 0; i < 11; i++) {
        if (PyTuple_GET_ITEM(tuple, i) == NULL) {
            Py_DECREF(tuple);
            return NULL;
        }
    }
    return tuple;
}

static int add_damaged(struct harvest *harvest, const struct rq_row *row)
{
    return append_new(harvest->damaged, Py_BuildValue("LKIII", (long long)row->task_id, (unsigned long long)row->lease,
                                                      row->kind, row->attempt, row->worker));
}

int harvest_add(struct harvest *harvest, enum rq_taken taken, const struct rq_row *row)
{
    PyObject *body = NULL;
    if (taken == RQ_TAKEN_DAMAGED) {
        return add_damaged(harvest, row);
    }
    if (row->has_body) {
        body = PyUnicode_DecodeUTF8(row->body, row->body_bytes, NULL);
        if (body == NULL) {
            if (!PyErr_ExceptionMatches(PyExc_UnicodeDecodeError)) {
                return -1;
            }
            PyErr_Clear();
            return add_damaged(harvest, row);
        }
    } else {
        body = Py_NewRef(Py_None);
    }
    if (row->spilled && append_new(harvest->spilled, PyLong_FromSsize_t(PyList_GET_SIZE(harvest->rows))) < 0) {
        Py_DECREF(body);
        return -1;
    }
    bool completed = row->status == 10;
    PyObject *nothing = Py_NewRef(Py_None);
    PyObject *tuple = row_tuple(row, completed ? body : nothing, completed ? nothing : body);
    return append_new(harvest->rows, tuple) < 0 ? -1 : 1;
}

PyObject *harvest_end(struct harvest *harvest)
{
    PyObject *triple = PyTuple_Pack(3, harvest->rows, harvest->spilled, harvest->damaged);
    if (triple != NULL) {
        harvest_drop(harvest);
    }
    return triple;
}

/* -- functions --------------------------------------------------------------------------------------------------- */

static PyObject *segment_size(PyObject *Py_UNUSED(module), PyObject *args, PyObject *keywords)
{
    static char *names[] = {"slots", "workers", "blocks", "result_ring_bytes", NULL};
    PyObject *slots, *workers, *blocks, *ring_bytes;
    struct rq_geometry g;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "OOOO:segment_size", names, &slots, &workers, &blocks,
                                     &ring_bytes) ||
        parse_shape(&g, slots, workers, blocks, ring_bytes) < 0) {
        return NULL;
    }
    return PyLong_FromUnsignedLongLong(g.size);
}

static PyObject *none_or_error(int error)
{
    if (error != 0) {
        errno = error;
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    Py_RETURN_NONE;
}

static PyObject *watch_parent(PyObject *Py_UNUSED(module), PyObject *pidfd)
{
    int64_t fd;
    if (parse_signed(pidfd, "pidfd", &fd) < 0) {
        return NULL;
    }
    return none_or_error(fd >= 0 && fd <= INT32_MAX ? rq_watch_parent((int)fd) : EBADF);
}

static PyObject *set_death_signal(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(none))
{
    return none_or_error(rq_set_death_signal());
}

static PyObject *process_start_ticks(PyObject *Py_UNUSED(module), PyObject *value)
{
    int64_t pid;
    if (parse_signed(value, "pid", &pid) < 0) {
        return NULL;
    }
    uint64_t ticks = pid > 0 ? rq_start_ticks(pid) : 0;
    return ticks > 0 ? PyLong_FromUnsignedLongLong(ticks) : Py_NewRef(Py_None);
}

static PyObject *crc32c(PyObject *Py_UNUSED(module), PyObject *args, PyObject *keywords)
{
    static char *names[] = {"data", "seed", NULL};
    Py_buffer bytes;
    PyObject *seed_value = NULL;
    uint64_t seed = 0;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "y*|O:crc32c", names, &bytes, &seed_value)) {
        return NULL;
    }
    if (seed_value != NULL && parse_unsigned(seed_value, "seed", UINT32_MAX, &seed) < 0) {
        PyBuffer_Release(&bytes);
        return NULL;
    }
    uint32_t crc = rq_crc32c((uint32_t)seed, bytes.buf, (size_t)bytes.len);
    PyBuffer_Release(&bytes);
    return PyLong_FromUnsignedLong(crc);
}

/* -- module ------------------------------------------------------------------------------------------------------ */

static int add_types(PyObject *module, struct module_state *state)
{
    state->ring_damaged = PyErr_NewExceptionWithDoc(
        "ringq.native._ring.RingDamaged",
        "The ring's shared memory says something that cannot be true; this process must not go on with it.",
        PyExc_RuntimeError, NULL);
    if (state->ring_damaged == NULL || PyModule_AddObjectRef(module, "RingDamaged", state->ring_damaged) < 0) {
        return -1;
    }
    state->parent_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &parent_spec, NULL);
    state->worker_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &worker_spec, NULL);
    state->recovery_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &recovery_spec, NULL);
    return state->parent_type == NULL || state->worker_type == NULL || state->recovery_type == NULL ||
                   PyModule_AddType(module, state->parent_type) < 0 ||
                   PyModule_AddType(module, state->worker_type) < 0 ||
                   PyModule_AddType(module, state->recovery_type) < 0
               ? -1
               : 0;
}

static int module_exec(PyObject *module)
{
    int error = rq_forks_count();
    if (error != 0) {
        errno = error;
        PyErr_SetFromErrno(PyExc_OSError);
        return -1;
    }
    if (add_types(module, PyModule_GetState(module)) < 0 ||
        PyModule_AddIntConstant(module, "LAYOUT_VERSION", RQ_LAYOUT_VERSION) < 0 ||
        PyModule_AddIntConstant(module, "INLINE_BYTES_MAX", RQ_PAYLOAD_INLINE_BYTES_MAX) < 0 ||
        PyModule_AddIntConstant(module, "RESULT_INLINE_BYTES_MAX", RQ_RESULT_INLINE_BYTES_MAX) < 0) {
        return -1;
    }
    return 0;
}

static int module_traverse(PyObject *module, visitproc visit, void *arg)
{
    struct module_state *state = PyModule_GetState(module);
    Py_VISIT(state->parent_type);
    Py_VISIT(state->worker_type);
    Py_VISIT(state->recovery_type);
    Py_VISIT(state->ring_damaged);
    return 0;
}

static int module_clear(PyObject *module)
{
    struct module_state *state = PyModule_GetState(module);
    Py_CLEAR(state->parent_type);
    Py_CLEAR(state->worker_type);
    Py_CLEAR(state->recovery_type);
    Py_CLEAR(state->ring_damaged);
    return 0;
}

static void module_free(void *module)
{
    module_clear(module);
}

static PyMethodDef functions[] = {
    {"segment_size", (PyCFunction)(void (*)(void))segment_size, METH_VARARGS | METH_KEYWORDS,
     "Bytes of a segment of this shape."},
    {"watch_parent", watch_parent, METH_O, "Die by SIGKILL when the parent does, with its group if it leads one."},
    {"set_death_signal", set_death_signal, METH_NOARGS, "SIGKILL this process when the thread that started it ends."},
    {"process_start_ticks", process_start_ticks, METH_O,
     "When a process was started, in clock ticks since boot, or None."},
    {"crc32c", (PyCFunction)(void (*)(void))crc32c, METH_VARARGS | METH_KEYWORDS, "CRC32C (Castagnoli) of bytes."},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot module_slots[] = {
    {Py_mod_exec, module_exec},
    {0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "ringq.native._ring",
    .m_doc = "The ring of task slots in shared memory.",
    .m_size = sizeof(struct module_state),
    .m_methods = functions,
    .m_slots = module_slots,
    .m_traverse = module_traverse,
    .m_clear = module_clear,
    .m_free = module_free,
};

PyMODINIT_FUNC PyInit__ring(void)
{
    return PyModuleDef_Init(&definition);
}
