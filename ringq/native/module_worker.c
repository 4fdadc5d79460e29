/* The binding of the worker and the recovery: ringq.native._ring.Worker and Recovery. */
#include "binding.h"

#include <math.h>

#define STATUS_MIN 10
#define STATUS_MAX 13
#define TIMEOUT_MS_MAX (24u * 3600u * 1000u)

/* -- worker ------------------------------------------------------------------------------------------------------ */

struct worker {
    PyObject_HEAD
    struct mapping mapping;
    struct rq_worker *ring;
    bool busy; /* a thread waits in claim() without the GIL */
};

/* Parses what Worker and Recovery have in common, maps and checks the segment. -1 with an exception. */
static int open_segment(struct mapping *mapping, struct rq_geometry *g, int fd, PyObject *size, Py_buffer *uuid,
                        PyObject *epoch, PyObject *nonce, bool writable)
{
    struct rq_identity id;
    char why[RQ_WHY_BYTES];
    int parsed = parse_identity(&id, uuid, epoch, nonce);
    PyBuffer_Release(uuid);
    if (parsed < 0 || map_segment(mapping, fd, size, writable) < 0) {
        return -1;
    }
    if (!rq_segment_check(mapping->memory, mapping->bytes, &id, g, why)) {
        PyErr_SetString(PyExc_ValueError, why);
        return -1;
    }
    return 0;
}

static PyObject *worker_new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    static char *names[] = {"fd", "size", "index", "uuid", "epoch", "nonce", "eventfd", NULL};
    PyObject *size, *index_value, *epoch, *nonce;
    Py_buffer uuid;
    int fd, eventfd;
    struct rq_geometry g;
    char why[RQ_WHY_BYTES];
    uint64_t index;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "iO$Oy*OOi:Worker", names, &fd, &size, &index_value, &uuid, &epoch,
                                     &nonce, &eventfd)) {
        return NULL;
    }
    struct worker *self = (struct worker *)type->tp_alloc(type, 0);
    if (self == NULL) {
        PyBuffer_Release(&uuid);
        return NULL;
    }
    if (open_segment(&self->mapping, &g, fd, size, &uuid, epoch, nonce, true) < 0 ||
        parse_unsigned(index_value, "index", g.workers - 1, &index) < 0) {
        Py_DECREF(self);
        return NULL;
    }
    self->ring = rq_worker_new(self->mapping.memory, &g, (uint32_t)index, eventfd, why);
    if (self->ring == NULL) {
        PyErr_SetString(PyExc_ValueError, why);
        Py_DECREF(self);
        return NULL;
    }
    return (PyObject *)self;
}

static void worker_dealloc(PyObject *object)
{
    struct worker *self = (struct worker *)object;
    PyTypeObject *type = Py_TYPE(object);
    rq_worker_delete(self->ring);
    unmap_segment(&self->mapping);
    type->tp_free(object);
    Py_DECREF(type);
}

static struct rq_worker *ring_of(PyObject *object)
{
    struct worker *self = (struct worker *)object;
    return check_not_forked(&self->mapping) < 0 ? NULL : self->ring;
}

/* As ring_of, for the steps of an attempt: one thread at a time. */
static struct rq_worker *idle_ring_of(PyObject *object)
{
    if (((struct worker *)object)->busy) {
        PyErr_SetString(PyExc_RuntimeError, "another thread waits in claim()");
        return NULL;
    }
    return ring_of(object);
}

static PyObject *refuse(PyObject *self, enum rq_outcome outcome, const char *misuse)
{
    if (outcome == RQ_MISUSED) {
        PyErr_SetString(PyExc_RuntimeError, misuse);
    } else {
        struct module_state *state = PyType_GetModuleState(Py_TYPE(self));
        PyErr_SetString(state->ring_damaged, "the slot of this attempt is damaged");
    }
    return NULL;
}

static PyObject *claimed_tuple(PyObject *self, struct rq_worker *ring, const struct rq_claimed *claimed)
{
    PyObject *payload = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)claimed->payload_bytes);
    if (payload == NULL) {
        return NULL;
    }
    enum rq_outcome outcome = rq_claim_payload(ring, PyBytes_AS_STRING(payload));
    if (outcome != RQ_OK) {
        Py_DECREF(payload);
        return refuse(self, outcome, "nothing is claimed");
    }
    PyObject *tuple = PyTuple_New(6); /* by hand: 0.04 us less than Py_BuildValue */
    if (tuple == NULL) {
        Py_DECREF(payload);
        return NULL;
    }
    PyTuple_SET_ITEM(tuple, 0, PyLong_FromLongLong(claimed->task_id));
    PyTuple_SET_ITEM(tuple, 1, PyLong_FromUnsignedLongLong(claimed->lease));
    PyTuple_SET_ITEM(tuple, 2, PyLong_FromUnsignedLong(claimed->kind));
    PyTuple_SET_ITEM(tuple, 3, PyLong_FromUnsignedLong(claimed->attempt));
    PyTuple_SET_ITEM(tuple, 4, PyLong_FromUnsignedLong(claimed->run_limit_ms));
    PyTuple_SET_ITEM(tuple, 5, payload);
    if (PyErr_Occurred()) {
        Py_CLEAR(tuple);
    }
    return tuple;
}

static PyObject *claim(PyObject *self, PyObject *value)
{
    struct rq_worker *ring = idle_ring_of(self);
    struct rq_claimed claimed;
    uint64_t timeout_ms;
    if (ring == NULL || parse_unsigned(value, "timeout_ms", TIMEOUT_MS_MAX, &timeout_ms) < 0) {
        return NULL;
    }
    uint64_t deadline = 0;
    for (;;) {
        enum rq_outcome outcome = rq_claim(ring, &claimed);
        if (outcome == RQ_OK) {
            return claimed_tuple(self, ring, &claimed);
        }
        if (outcome != RQ_NOTHING) {
            return refuse(self, outcome, "an attempt is still open: finish() it before the next claim()");
        }
        uint64_t now = timeout_ms > 0 ? rq_monotonic_ns() : 0;
        deadline = deadline != 0 ? deadline : now + timeout_ms * 1000000u;
        if (now >= deadline || rq_stopping(ring)) {
            Py_RETURN_NONE;
        }
        bool undisturbed;
        ((struct worker *)self)->busy = true;
        Py_BEGIN_ALLOW_THREADS
        undisturbed = rq_claim_wait(ring, deadline - now);
        Py_END_ALLOW_THREADS
        ((struct worker *)self)->busy = false;
        if (!undisturbed && PyErr_CheckSignals() < 0) {
            return NULL;
        }
    }
}

static PyObject *start(PyObject *self, PyObject *Py_UNUSED(none))
{
    struct rq_worker *ring = idle_ring_of(self);
    if (ring == NULL) {
        return NULL;
    }
    enum rq_outcome outcome = rq_start(ring);
    if (outcome != RQ_OK) {
        return refuse(self, outcome, "nothing is claimed, or it has been started");
    }
    Py_RETURN_NONE;
}

static PyObject *call(PyObject *self, PyObject *value)
{
    struct rq_worker *ring = idle_ring_of(self);
    uint64_t index;
    if (ring == NULL || parse_unsigned(value, "index", RQ_CALL_MAX, &index) < 0) {
        return NULL;
    }
    enum rq_outcome outcome = rq_call(ring, index);
    if (outcome != RQ_OK) {
        return refuse(self, outcome, "nothing is running");
    }
    Py_RETURN_NONE;
}

static PyObject *leave(PyObject *self, PyObject *Py_UNUSED(none))
{
    struct rq_worker *ring = idle_ring_of(self);
    if (ring == NULL) {
        return NULL;
    }
    rq_leave(ring);
    Py_RETURN_NONE;
}

static PyObject *finish(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *names)
{
    struct rq_worker *ring = idle_ring_of(self);
    uint64_t status, reason;
    Py_ssize_t named = names != NULL ? PyTuple_GET_SIZE(names) : 0;
    if (ring == NULL || check_count("finish", nargs + named, 3, 4) < 0 || check_count("finish", nargs, 3, 4) < 0) {
        return NULL;
    }
    if (named == 1 && PyUnicode_CompareWithASCIIString(PyTuple_GET_ITEM(names, 0), "spilled") != 0) {
        return PyErr_Format(PyExc_TypeError, "finish: unexpected keyword %R", PyTuple_GET_ITEM(names, 0));
    }
    int spilled = nargs + named == 4 ? PyObject_IsTrue(args[3]) : 0;
    PyObject *body = args[2];
    if (spilled < 0 || parse_unsigned(args[0], "status", UINT8_MAX, &status) < 0 ||
        parse_unsigned(args[1], "reason", UINT8_MAX, &reason) < 0) {
        return NULL;
    }
    if (status < STATUS_MIN || status > STATUS_MAX) {
        return PyErr_Format(PyExc_ValueError, "status: expected %d to %d, got %R", STATUS_MIN, STATUS_MAX, args[0]);
    }
    if (body != Py_None && !PyBytes_Check(body)) {
        return PyErr_Format(PyExc_TypeError, "body: expected bytes or None, got %.100s", Py_TYPE(body)->tp_name);
    }
    const char *bytes = body != Py_None ? PyBytes_AS_STRING(body) : NULL;
    size_t count = body != Py_None ? (size_t)PyBytes_GET_SIZE(body) : 0;
    enum rq_outcome outcome = rq_finish(ring, (uint32_t)status, (uint32_t)reason, bytes, count, spilled == 1);
    if (outcome == RQ_OK || outcome == RQ_NOTHING) {
        return PyBool_FromLong(outcome == RQ_OK);
    }
    return refuse(self, outcome, "nothing is running");
}

static PyObject *cancel_requested(PyObject *self, PyObject *Py_UNUSED(none))
{
    struct rq_worker *ring = ring_of(self);
    return ring == NULL ? NULL : PyLong_FromUnsignedLong(rq_cancel_requested(ring));
}

static PyObject *interrupt(PyObject *self, PyObject *Py_UNUSED(none))
{
    struct rq_worker *ring = ring_of(self);
    return ring == NULL ? NULL : PyLong_FromUnsignedLong(rq_interrupt(ring));
}

static PyObject *set_progress(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    struct rq_worker *ring = ring_of(self);
    uint64_t lease;
    Py_ssize_t bytes;
    if (ring == NULL || check_count("set_progress", nargs, 3, 3) < 0 ||
        parse_unsigned(args[0], "lease", INT64_MAX, &lease) < 0) {
        return NULL;
    }
    double fraction = PyFloat_AsDouble(args[1]);
    if (fraction == -1.0 && PyErr_Occurred()) {
        return NULL;
    }
    if (isnan(fraction)) {
        PyErr_SetString(PyExc_ValueError, "fraction: expected 0 to 1, got nan");
        return NULL;
    }
    if (!PyUnicode_Check(args[2])) {
        return PyErr_Format(PyExc_TypeError, "message: expected a str, got %.100s", Py_TYPE(args[2])->tp_name);
    }
    const char *message = PyUnicode_AsUTF8AndSize(args[2], &bytes);
    if (message == NULL) {
        return NULL;
    }
    if (bytes > (Py_ssize_t)RQ_MESSAGE_BYTES_MAX) { /* cut before a character, not inside of one */
        bytes = RQ_MESSAGE_BYTES_MAX;
        while (bytes > 0 && ((unsigned char)message[bytes] & 0xc0) == 0x80) {
            bytes--;
        }
    }
    rq_set_progress(ring, lease, fraction < 0 ? 0.0 : fraction > 1 ? 1.0 : fraction, message, (uint32_t)bytes);
    Py_RETURN_NONE;
}

static PyObject *with_bytes(PyObject *self, PyObject *const *args, Py_ssize_t nargs, const char *name,
                            void (*function)(struct rq_worker *, uint64_t, uint64_t))
{
    struct rq_worker *ring = ring_of(self);
    uint64_t lease, bytes;
    if (ring == NULL || check_count(name, nargs, 2, 2) < 0 ||
        parse_unsigned(args[0], "lease", INT64_MAX, &lease) < 0 ||
        parse_unsigned(args[1], "bytes", RQ_BYTES_MAX, &bytes) < 0) {
        return NULL;
    }
    function(ring, lease, bytes);
    Py_RETURN_NONE;
}

static PyObject *set_bytes(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    return with_bytes(self, args, nargs, "set_bytes", rq_set_bytes);
}

static PyObject *add_bytes(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    return with_bytes(self, args, nargs, "add_bytes", rq_add_bytes);
}

static PyObject *set_total(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    return with_bytes(self, args, nargs, "set_total", rq_set_total);
}

static PyObject *unread(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    int64_t fd, kept = 0;
    if (ring_of(self) == NULL || check_count("unread", nargs, 1, 2) < 0 || parse_signed(args[0], "fd", &fd) < 0 ||
        (nargs == 2 && parse_signed(args[1], "kept", &kept) < 0)) {
        return NULL;
    }
    bool possible = fd >= 0 && fd <= INT32_MAX && kept >= 0 && kept <= INT32_MAX;
    return PyLong_FromLong(possible && (nargs == 1 || rq_is_open((int)kept)) ? rq_unread((int)fd) : -1);
}

static PyObject *get_stopping(PyObject *self, void *Py_UNUSED(closure))
{
    struct rq_worker *ring = ring_of(self);
    return ring == NULL ? NULL : PyBool_FromLong(rq_stopping(ring));
}

#define FUNCTION(function) (PyCFunction)(void (*)(void))function

static PyMethodDef worker_methods[] = {
    {"claim", claim, METH_O, "The next task, or None after timeout_ms or when stopping."},
    {"start", start, METH_NOARGS, "The handler is about to be called."},
    {"call", call, METH_O, "The handler is about to be called again in this attempt, for this index."},
    {"leave", leave, METH_NOARGS, "The handler has ended; may be called again."},
    {"finish", FUNCTION(finish), METH_FASTCALL | METH_KEYWORDS, "Publish the receipt; False: the body does not fit."},
    {"cancel_requested", cancel_requested, METH_NOARGS, "Reason code if the attempt should end, else 0."},
    {"interrupt", interrupt, METH_NOARGS, "As cancel_requested, but only once for each call."},
    {"set_progress", FUNCTION(set_progress), METH_FASTCALL, "Show how far the attempt of this lease is."},
    {"set_bytes", FUNCTION(set_bytes), METH_FASTCALL, "Show how many bytes the attempt of this lease has done."},
    {"add_bytes", FUNCTION(add_bytes), METH_FASTCALL, "Show that it has done so many more."},
    {"set_total", FUNCTION(set_total), METH_FASTCALL, "Show how many bytes it has to do."},
    {"unread", FUNCTION(unread), METH_FASTCALL, "Bytes in a pipe that its reader has not taken yet, -1: no pipe."},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef worker_properties[] = {
    {"stopping", get_stopping, NULL, "True once the parent wants this worker to leave.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot worker_slots[] = {
    {Py_tp_doc, "A worker's side of the ring."},
    {Py_tp_new, worker_new},
    {Py_tp_dealloc, worker_dealloc},
    {Py_tp_methods, worker_methods},
    {Py_tp_getset, worker_properties},
    {0, NULL},
};

PyType_Spec worker_spec = {
    .name = "ringq.native._ring.Worker",
    .basicsize = sizeof(struct worker),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = worker_slots,
};

/* -- recovery ---------------------------------------------------------------------------------------------------- */

struct recovery {
    PyObject_HEAD
    struct mapping mapping;
    struct rq_geometry geometry;
    struct rq_recovery *ring;
};

static PyObject *recovery_new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    static char *names[] = {"fd", "size", "uuid", "epoch", "nonce", NULL};
    PyObject *size, *epoch, *nonce;
    Py_buffer uuid;
    int fd;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "iO$y*OO:Recovery", names, &fd, &size, &uuid, &epoch, &nonce)) {
        return NULL;
    }
    struct recovery *self = (struct recovery *)type->tp_alloc(type, 0);
    if (self == NULL) {
        PyBuffer_Release(&uuid);
        return NULL;
    }
    if (open_segment(&self->mapping, &self->geometry, fd, size, &uuid, epoch, nonce, false) < 0) {
        Py_DECREF(self);
        return NULL;
    }
    self->ring = rq_recovery_new(self->mapping.memory, &self->geometry);
    if (self->ring == NULL) {
        Py_DECREF(self);
        return PyErr_NoMemory();
    }
    return (PyObject *)self;
}

static void recovery_dealloc(PyObject *object)
{
    struct recovery *self = (struct recovery *)object;
    PyTypeObject *type = Py_TYPE(object);
    rq_recovery_delete(self->ring);
    unmap_segment(&self->mapping);
    type->tp_free(object);
    Py_DECREF(type);
}

static struct rq_recovery *recovery_of(PyObject *object)
{
    struct recovery *self = (struct recovery *)object;
    return check_not_forked(&self->mapping) < 0 ? NULL : self->ring;
}

static PyObject *recovery_workers(PyObject *self, PyObject *Py_UNUSED(none))
{
    struct rq_recovery *ring = recovery_of(self);
    struct rq_member members[RQ_WORKERS_MAX];
    if (ring == NULL) {
        return NULL;
    }
    uint32_t count = rq_recovery_members(ring, members);
    PyObject *list = PyList_New((Py_ssize_t)count);
    for (uint32_t i = 0; list != NULL && i < count; i++) {
        PyObject *tuple = Py_BuildValue("IIK", members[i].index, members[i].pid,
                                        (unsigned long long)members[i].start_ticks);
        if (tuple == NULL) {
            Py_CLEAR(list);
        } else {
            PyList_SET_ITEM(list, (Py_ssize_t)i, tuple);
        }
    }
    return list;
}

static PyObject *recovery_receipts(PyObject *self, PyObject *Py_UNUSED(none))
{
    struct rq_recovery *ring = recovery_of(self);
    struct harvest harvest;
    struct rq_row row;
    enum rq_taken taken;
    if (ring == NULL || harvest_begin(&harvest) < 0) {
        return NULL;
    }
    rq_recovery_begin(ring);
    while ((taken = rq_recovery_next(ring, &row)) != RQ_TAKEN_NOTHING) {
        if (harvest_add(&harvest, taken, &row) < 0) {
            harvest_drop(&harvest);
            return NULL;
        }
    }
    PyObject *triple = harvest_end(&harvest);
    harvest_drop(&harvest);
    return triple;
}

static PyObject *recovery_running(PyObject *self, PyObject *Py_UNUSED(none))
{
    struct rq_recovery *ring = recovery_of(self);
    if (ring == NULL) {
        return NULL;
    }
    struct rq_held *held = PyMem_Malloc(((struct recovery *)self)->geometry.slots * sizeof *held);
    if (held == NULL) {
        return PyErr_NoMemory();
    }
    uint32_t count = rq_recovery_running(ring, held);
    PyObject *list = PyList_New((Py_ssize_t)count);
    for (uint32_t i = 0; list != NULL && i < count; i++) {
        PyObject *tuple = Py_BuildValue("LKIIIK", (long long)held[i].task_id, (unsigned long long)held[i].lease,
                                        held[i].kind, held[i].attempt, held[i].worker,
                                        (unsigned long long)held[i].call);
        if (tuple == NULL) {
            Py_CLEAR(list);
        } else {
            PyList_SET_ITEM(list, (Py_ssize_t)i, tuple);
        }
    }
    PyMem_Free(held);
    return list;
}

static PyMethodDef recovery_methods[] = {
    {"workers", recovery_workers, METH_NOARGS, "(index, pid, start ticks) of each worker that was attached."},
    {"receipts", recovery_receipts, METH_NOARGS, "Every published receipt: (rows, spilled, damaged)."},
    {"running", recovery_running, METH_NOARGS, "(task_id, lease, kind, attempt, worker, call) of what was running."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot recovery_slots[] = {
    {Py_tp_doc, "A read-only look at the segment of a dead parent."},
    {Py_tp_new, recovery_new},
    {Py_tp_dealloc, recovery_dealloc},
    {Py_tp_methods, recovery_methods},
    {0, NULL},
};

PyType_Spec recovery_spec = {
    .name = "ringq.native._ring.Recovery",
    .basicsize = sizeof(struct recovery),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = recovery_slots,
};
