/* The binding of the parent: ringq.native._ring.Parent. */
#include "binding.h"

struct parent {
    PyObject_HEAD
    struct mapping mapping;
    struct rq_parent *ring;
    struct rq_held *held; /* room for what sweep, revoke_all and running report */
    struct rq_shown *shown; /* likewise, progress */
};

static PyObject *parent_new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    static char *names[] = {"fd",     "size",   "uuid",              "epoch",   "nonce", "slots",
                            "workers", "blocks", "result_ring_bytes", "eventfd", NULL};
    PyObject *size, *epoch, *nonce, *slots, *workers, *blocks, *ring_bytes;
    Py_buffer uuid;
    int fd, eventfd;
    struct rq_geometry g;
    struct rq_identity id;
    static const struct rq_header unused;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "iO$y*OOOOOOi:Parent", names, &fd, &size, &uuid, &epoch, &nonce,
                                     &slots, &workers, &blocks, &ring_bytes, &eventfd)) {
        return NULL;
    }
    int parsed = parse_identity(&id, &uuid, epoch, nonce);
    PyBuffer_Release(&uuid);
    if (parsed < 0 || parse_shape(&g, slots, workers, blocks, ring_bytes) < 0) {
        return NULL;
    }
    struct parent *self = (struct parent *)type->tp_alloc(type, 0);
    if (self == NULL || map_segment(&self->mapping, fd, size, true) < 0) {
        Py_XDECREF(self);
        return NULL;
    }
    if (self->mapping.bytes < g.size || memcmp(self->mapping.memory, &unused, sizeof unused) != 0) {
        PyErr_SetString(PyExc_ValueError, self->mapping.bytes < g.size ? "size: too small for this shape"
                                                                       : "fd: the segment is in use already");
        Py_DECREF(self);
        return NULL;
    }
    rq_segment_format(self->mapping.memory, &g, &id);
    self->ring = rq_parent_new(self->mapping.memory, &g, eventfd);
    self->held = PyMem_Malloc(g.slots * sizeof *self->held + g.workers * sizeof *self->held);
    self->shown = PyMem_Malloc(g.workers * sizeof *self->shown);
    if (self->ring == NULL || self->held == NULL || self->shown == NULL) {
        Py_DECREF(self);
        return PyErr_NoMemory();
    }
    return (PyObject *)self;
}

static void parent_dealloc(PyObject *object)
{
    struct parent *self = (struct parent *)object;
    PyTypeObject *type = Py_TYPE(object);
    rq_parent_delete(self->ring);
    PyMem_Free(self->held);
    PyMem_Free(self->shown);
    unmap_segment(&self->mapping);
    type->tp_free(object);
    Py_DECREF(type);
}

/* The ring of an object that may be used in this process, else NULL with an exception. */
static struct rq_parent *ring_of(PyObject *object)
{
    struct parent *self = (struct parent *)object;
    return check_not_forked(&self->mapping) < 0 ? NULL : self->ring;
}

static int parse_worker(struct rq_parent *ring, PyObject *value, uint32_t *worker)
{
    uint64_t number;
    if (parse_unsigned(value, "worker", rq_parent_geometry(ring)->workers - 1, &number) < 0) {
        return -1;
    }
    *worker = (uint32_t)number;
    return 0;
}

/* -- publish ----------------------------------------------------------------------------------------------------- */

static int parse_task(PyObject *row, struct rq_task *task)
{
    uint64_t kind, attempt, run_limit;
    Py_ssize_t bytes;
    if (!PyTuple_Check(row) || PyTuple_GET_SIZE(row) != 5) {
        PyErr_SetString(PyExc_TypeError, "a task is a tuple (task_id, kind, attempt, run_limit_ms, payload)");
        return -1;
    }
    PyObject *payload = PyTuple_GET_ITEM(row, 4);
    if (!PyUnicode_Check(payload)) {
        PyErr_Format(PyExc_TypeError, "payload: expected a str, got %.100s", Py_TYPE(payload)->tp_name);
        return -1;
    }
    if (parse_signed(PyTuple_GET_ITEM(row, 0), "task_id", &task->task_id) < 0 ||
        parse_unsigned(PyTuple_GET_ITEM(row, 1), "kind", UINT32_MAX, &kind) < 0 ||
        parse_unsigned(PyTuple_GET_ITEM(row, 2), "attempt", UINT32_MAX, &attempt) < 0 ||
        parse_unsigned(PyTuple_GET_ITEM(row, 3), "run_limit_ms", UINT32_MAX, &run_limit) < 0) {
        return -1;
    }
    task->payload = PyUnicode_AsUTF8AndSize(payload, &bytes);
    if (task->payload == NULL) {
        return -1;
    }
    task->kind = (uint32_t)kind;
    task->attempt = (uint32_t)attempt;
    task->run_limit_ms = (uint32_t)run_limit;
    task->payload_bytes = bytes <= UINT32_MAX ? (uint32_t)bytes : UINT32_MAX;
    return 0;
}

/* All of `rows` is parsed before anything is published: a wrong one raises without a trace. A payload that fits no
 * block ends the batch before it; at the front it is an error. Returns how many to publish, -1 with an exception. */
static Py_ssize_t parse_tasks(struct rq_parent *ring, PyObject *rows, Py_ssize_t count, struct rq_task *tasks)
{
    uint32_t most = rq_payload_bytes_max(ring);
    for (Py_ssize_t i = 0; i < count; i++) {
        if (parse_task(PySequence_Fast_GET_ITEM(rows, i), &tasks[i]) < 0) {
            return -1;
        }
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        if (tasks[i].payload_bytes > most) {
            if (i == 0) {
                PyErr_Format(PyExc_ValueError, "payload: task %lld has %u bytes, the largest block has %u",
                             (long long)tasks[i].task_id, tasks[i].payload_bytes, most);
                return -1;
            }
            return i;
        }
    }
    return count;
}

static PyObject *publish(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    struct rq_parent *ring = ring_of(self);
    uint64_t first_lease;
    if (ring == NULL || check_count("publish", nargs, 2, 2) < 0 ||
        parse_unsigned(args[1], "first_lease", INT64_MAX, &first_lease) < 0) {
        return NULL;
    }
    PyObject *rows = PySequence_Fast(args[0], "tasks: expected a sequence");
    if (rows == NULL) {
        return NULL;
    }
    Py_ssize_t count = PySequence_Fast_GET_SIZE(rows);
    Py_ssize_t slots = rq_parent_geometry(ring)->slots;
    count = count < slots ? count : slots;
    PyObject *published = NULL;
    struct rq_task *tasks = PyMem_Malloc((size_t)(count > 0 ? count : 1) * sizeof *tasks);
    if (tasks == NULL) {
        PyErr_NoMemory();
    } else if (first_lease > (uint64_t)(INT64_MAX - count)) {
        PyErr_SetString(PyExc_ValueError, "first_lease: no leases left");
    } else {
        /* nothing here runs Python code, so rows and payloads stay as they are until they are published */
        count = parse_tasks(ring, rows, count, tasks);
        if (count >= 0) {
            published = PyLong_FromUnsignedLong(rq_publish(ring, tasks, (uint32_t)count, first_lease));
        }
    }
    PyMem_Free(tasks);
    Py_DECREF(rows);
    return published;
}

/* -- drain, free ------------------------------------------------------------------------------------------------- */

static PyObject *drain(PyObject *self, PyObject *value)
{
    struct rq_parent *ring = ring_of(self);
    struct harvest harvest;
    struct rq_row row;
    enum rq_taken taken;
    uint64_t limit;
    if (ring == NULL || parse_unsigned(value, "limit", UINT32_MAX, &limit) < 0 || harvest_begin(&harvest) < 0) {
        return NULL;
    }
    PyObject *triple = NULL;
    int added = 0;
    rq_drain_begin(ring);
    for (uint64_t i = 0; i < limit && (taken = rq_drain_next(ring, &row)) != RQ_TAKEN_NOTHING; i++) {
        added = harvest_add(&harvest, taken, &row);
        if (added < 0) {
            break;
        }
        if (added == 0 && taken == RQ_TAKEN_ROW) {
            rq_count_damaged(ring); /* its body is no UTF-8 */
        }
    }
    triple = added >= 0 ? harvest_end(&harvest) : NULL;
    if (triple == NULL) { /* out of memory: nothing was handed out, all of it comes again */
        harvest_drop(&harvest);
        rq_hand_back(ring);
    }
    return triple;
}

static PyObject *free_handed(PyObject *self, PyObject *Py_UNUSED(none))
{
    struct rq_parent *ring = ring_of(self);
    return ring == NULL ? NULL : PyLong_FromUnsignedLong(rq_free(ring));
}

/* -- sweep, abandon, revoke, running ----------------------------------------------------------------------------- */

enum shape { SHAPE_SWEPT, SHAPE_REVOKED, SHAPE_RUNNING };

static PyObject *held_tuple(const struct rq_held *held, enum shape shape)
{
    long long id = held->task_id;
    unsigned long long lease = held->lease;
    switch (shape) {
    case SHAPE_SWEPT:
        return Py_BuildValue("LKIIIN", id, lease, held->kind, held->attempt, held->run_limit_ms,
                             PyBool_FromLong(held->started));
    case SHAPE_REVOKED:
        return Py_BuildValue("LIII", id, held->kind, held->attempt, held->run_limit_ms);
    case SHAPE_RUNNING:
        return Py_BuildValue("ILKIIIKK", held->worker, id, lease, held->kind, held->attempt, held->run_limit_ms,
                             (unsigned long long)held->started_ns, (unsigned long long)held->call);
    }
    Py_UNREACHABLE();
}

static PyObject *held_list(const struct rq_held *held, uint32_t count, enum shape shape)
{
    PyObject *list = PyList_New((Py_ssize_t)count);
    for (uint32_t i = 0; list != NULL && i < count; i++) {
        PyObject *tuple = held_tuple(&held[i], shape);
        if (tuple == NULL) {
            Py_CLEAR(list);
        } else {
            PyList_SET_ITEM(list, (Py_ssize_t)i, tuple);
        }
    }
    return list;
}

static PyObject *sweep(PyObject *self, PyObject *value)
{
    struct rq_parent *ring = ring_of(self);
    struct rq_held *held = ((struct parent *)self)->held;
    uint32_t worker;
    if (ring == NULL || parse_worker(ring, value, &worker) < 0) {
        return NULL;
    }
    PyObject *list = held_list(held, rq_sweep(ring, worker, held), SHAPE_SWEPT);
    if (list == NULL) {
        rq_hand_back(ring);
        return NULL;
    }
    rq_reset_record(ring, worker);
    return list;
}

static PyObject *abandon(PyObject *self, PyObject *Py_UNUSED(none))
{
    struct rq_parent *ring = ring_of(self);
    struct rq_held *held = ((struct parent *)self)->held;
    if (ring == NULL) {
        return NULL;
    }
    PyObject *list = held_list(held, rq_abandon(ring, held), SHAPE_SWEPT);
    if (list == NULL) {
        rq_hand_back(ring);
    }
    return list;
}

static PyObject *revoke_all(PyObject *self, PyObject *Py_UNUSED(none))
{
    struct rq_parent *ring = ring_of(self);
    struct rq_held *held = ((struct parent *)self)->held;
    /* out of memory here loses the list, not a task: the database still has every one of them as pending */
    return ring == NULL ? NULL : held_list(held, rq_revoke_all(ring, held), SHAPE_REVOKED);
}

static PyObject *revoke_task(PyObject *self, PyObject *value)
{
    struct rq_parent *ring = ring_of(self);
    int64_t task_id;
    if (ring == NULL || parse_signed(value, "task_id", &task_id) < 0) {
        return NULL;
    }
    enum rq_revoked found = rq_revoke(ring, task_id);
    if (found == RQ_ABSENT) {
        Py_RETURN_NONE;
    }
    return PyBool_FromLong(found == RQ_REVOKED);
}

static PyObject *running(PyObject *self, PyObject *Py_UNUSED(none))
{
    struct rq_parent *ring = ring_of(self);
    struct rq_held *held = ((struct parent *)self)->held;
    return ring == NULL ? NULL : held_list(held, rq_running(ring, held), SHAPE_RUNNING);
}

static PyObject *scan(PyObject *self, PyObject *Py_UNUSED(none))
{
    struct rq_parent *ring = ring_of(self);
    return ring == NULL ? NULL : PyLong_FromUnsignedLong(rq_scan(ring));
}

/* -- workers ----------------------------------------------------------------------------------------------------- */

static PyObject *request_cancel(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *names)
{
    struct rq_parent *ring = ring_of(self);
    uint32_t worker;
    uint64_t lease, reason, call = 0;
    Py_ssize_t named = names != NULL ? PyTuple_GET_SIZE(names) : 0;
    if (ring == NULL || check_count("request_cancel", nargs + named, 3, 4) < 0 ||
        check_count("request_cancel", nargs, 3, 4) < 0) {
        return NULL;
    }
    if (named == 1 && PyUnicode_CompareWithASCIIString(PyTuple_GET_ITEM(names, 0), "call") != 0) {
        return PyErr_Format(PyExc_TypeError, "request_cancel: unexpected keyword %R", PyTuple_GET_ITEM(names, 0));
    }
    if (parse_worker(ring, args[0], &worker) < 0 || parse_unsigned(args[1], "lease", INT64_MAX, &lease) < 0 ||
        parse_unsigned(args[2], "reason", UINT8_MAX, &reason) < 0 ||
        (nargs + named == 4 && parse_unsigned(args[3], "call", RQ_CALL_MAX, &call) < 0)) {
        return NULL;
    }
    return PyBool_FromLong(rq_request_cancel(ring, worker, lease, (uint32_t)reason, call));
}

static PyObject *stop_worker(PyObject *self, PyObject *value)
{
    struct rq_parent *ring = ring_of(self);
    uint32_t worker;
    if (ring == NULL || parse_worker(ring, value, &worker) < 0) {
        return NULL;
    }
    rq_stop_worker(ring, worker);
    Py_RETURN_NONE;
}

static PyObject *stop_all(PyObject *self, PyObject *Py_UNUSED(none))
{
    struct rq_parent *ring = ring_of(self);
    if (ring == NULL) {
        return NULL;
    }
    rq_stop_all(ring);
    Py_RETURN_NONE;
}

/* What is not there is None. */
static PyObject *progress_tuple(const struct rq_held *held, const struct rq_shown *shown)
{
    bool is_said = shown->said_ns != 0, is_known = shown->total != RQ_BYTES_UNKNOWN;
    PyObject *fraction = is_said ? PyFloat_FromDouble(shown->fraction) : Py_NewRef(Py_None);
    PyObject *message = PyUnicode_DecodeUTF8(shown->message, (Py_ssize_t)shown->message_bytes, "replace");
    PyObject *total = is_known ? PyLong_FromUnsignedLongLong(shown->total) : Py_NewRef(Py_None);
    return Py_BuildValue("ILKIIKNKNKN", held->worker, (long long)held->task_id, (unsigned long long)held->lease,
                         held->kind, held->attempt, (unsigned long long)shown->since_ns, fraction,
                         (unsigned long long)shown->said_ns, message, (unsigned long long)shown->bytes, total);
}

static PyObject *progress(PyObject *self, PyObject *Py_UNUSED(none))
{
    struct rq_parent *ring = ring_of(self);
    struct parent *parent = (struct parent *)self;
    if (ring == NULL) {
        return NULL;
    }
    uint32_t count = rq_progress(ring, parent->held, parent->shown);
    PyObject *list = PyList_New((Py_ssize_t)count);
    for (uint32_t i = 0; list != NULL && i < count; i++) {
        PyObject *tuple = progress_tuple(&parent->held[i], &parent->shown[i]);
        if (tuple == NULL) {
            Py_CLEAR(list);
        } else {
            PyList_SET_ITEM(list, (Py_ssize_t)i, tuple);
        }
    }
    return list;
}

/* As `progress.ROW` reads it. */
struct packed {
    uint32_t worker, kind, attempt, message_bytes;
    int64_t task_id;
    uint64_t lease, since_ns, said_ns;
    double fraction;
    uint64_t bytes, total;
    char message[RQ_MESSAGE_BYTES_MAX + 1];
};
static_assert(sizeof(struct packed) == 136 && offsetof(struct packed, message) == 72, "read by Python");

static void pack(struct packed *row, const struct rq_held *held, const struct rq_shown *shown)
{
    *row = (struct packed){
        .worker = held->worker,
        .kind = held->kind,
        .attempt = held->attempt,
        .message_bytes = shown->message_bytes,
        .task_id = held->task_id,
        .lease = held->lease,
        .since_ns = shown->since_ns,
        .said_ns = shown->said_ns,
        .fraction = shown->fraction,
        .bytes = shown->bytes,
        .total = shown->total,
    };
    memcpy(row->message, shown->message, sizeof row->message);
}

/* A sixth of the time that progress takes: no object for each value. */
static PyObject *packed_progress(PyObject *self, PyObject *value)
{
    struct rq_parent *ring = ring_of(self);
    struct parent *parent = (struct parent *)self;
    int64_t task_id;
    if (ring == NULL || parse_signed(value, "task_id", &task_id) < 0) {
        return NULL;
    }
    uint32_t running = rq_progress(ring, parent->held, parent->shown), count = 0;
    PyObject *rows = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)(running * sizeof(struct packed)));
    PyObject *kinds = PySet_New(NULL);
    uint32_t last = 0;
    for (uint32_t i = 0; rows != NULL && kinds != NULL && i < running; i++) {
        const struct rq_held *held = &parent->held[i];
        if (task_id != 0 && held->task_id != task_id) {
            continue;
        }
        struct packed row;
        pack(&row, held, &parent->shown[i]);
        memcpy(PyBytes_AS_STRING(rows) + count++ * sizeof row, &row, sizeof row);
        if (count == 1 || held->kind != last) {
            PyObject *kind = PyLong_FromUnsignedLong(held->kind);
            if (kind == NULL || PySet_Add(kinds, kind) < 0) {
                Py_CLEAR(kinds);
            }
            Py_XDECREF(kind);
            last = held->kind;
        }
    }
    if (rows != NULL && kinds != NULL) {
        _PyBytes_Resize(&rows, (Py_ssize_t)(count * sizeof(struct packed)));
    }
    if (rows == NULL || kinds == NULL) {
        Py_XDECREF(rows);
        Py_XDECREF(kinds);
        return NULL;
    }
    return Py_BuildValue("NN", rows, kinds);
}

static PyObject *heartbeat_ns(PyObject *self, PyObject *value)
{
    struct rq_parent *ring = ring_of(self);
    uint32_t worker;
    if (ring == NULL || parse_worker(ring, value, &worker) < 0) {
        return NULL;
    }
    return PyLong_FromUnsignedLongLong(rq_heartbeat_ns(ring, worker));
}

/* -- questions, sleep -------------------------------------------------------------------------------------------- */

static PyObject *ready(PyObject *self, PyObject *Py_UNUSED(none))
{
    struct rq_parent *ring = ring_of(self);
    return ring == NULL ? NULL : PyLong_FromUnsignedLong(rq_ready(ring));
}

static PyObject *in_flight(PyObject *self, PyObject *Py_UNUSED(none))
{
    struct rq_parent *ring = ring_of(self);
    return ring == NULL ? NULL : PyLong_FromUnsignedLong(rq_in_flight(ring));
}

static PyObject *min_task_id(PyObject *self, PyObject *Py_UNUSED(none))
{
    struct rq_parent *ring = ring_of(self);
    int64_t id;
    if (ring == NULL) {
        return NULL;
    }
    return rq_min_task_id(ring, &id) ? PyLong_FromLongLong(id) : Py_NewRef(Py_None);
}

static PyObject *healthy(PyObject *self, PyObject *Py_UNUSED(none))
{
    struct rq_parent *ring = ring_of(self);
    return ring == NULL ? NULL : PyBool_FromLong(rq_healthy(ring));
}

static PyObject *prepare_sleep(PyObject *self, PyObject *Py_UNUSED(none))
{
    struct rq_parent *ring = ring_of(self);
    return ring == NULL ? NULL : PyBool_FromLong(rq_prepare_sleep(ring));
}

static PyObject *awake(PyObject *self, PyObject *Py_UNUSED(none))
{
    struct rq_parent *ring = ring_of(self);
    if (ring == NULL) {
        return NULL;
    }
    rq_awake(ring);
    Py_RETURN_NONE;
}

static PyObject *statistics(PyObject *self, PyObject *Py_UNUSED(none))
{
    struct rq_parent *ring = ring_of(self);
    if (ring == NULL) {
        return NULL;
    }
    const struct rq_counters *c = rq_counters(ring);
    return Py_BuildValue("{sKsKsKsKsKsKsKsKsKsKsK}", "published", c->published, "drained", c->drained, "freed",
                         c->freed, "revoked", c->revoked, "swept", c->swept, "found", c->found, "wakes", c->wakes,
                         "damaged", c->damaged, "stale", c->stale, "recelled", c->recelled, "retired", c->retired);
}

#define FAST(function) (PyCFunction)(void (*)(void))function, METH_FASTCALL

static PyMethodDef methods[] = {
    {"publish", FAST(publish), "Publish tasks from the front; returns how many fitted."},
    {"drain", drain, METH_O, "At most limit receipts that are there: (rows, spilled, damaged). Free after COMMIT."},
    {"free", free_handed, METH_NOARGS, "Free every slot handed out since the last free; only after COMMIT."},
    {"sweep", sweep, METH_O, "What a dead worker held; its receipts come with the next drain."},
    {"abandon", abandon, METH_NOARGS, "When every worker is dead: all that was published and has no receipt."},
    {"revoke", revoke_task, METH_O, "Take back one task, if no worker has claimed it."},
    {"revoke_all", revoke_all, METH_NOARGS, "Take back every task that no worker has claimed."},
    {"scan", scan, METH_NOARGS, "Look at every published slot for receipts whose hint was lost; returns their number."},
    {"running", running, METH_NOARGS, "What the workers run now."},
    {"request_cancel", FAST(request_cancel) | METH_KEYWORDS,
     "Ask a worker to end this call of the attempt of this lease; False if it has ended."},
    {"stop_worker", stop_worker, METH_O, "Let a worker leave when its present attempt has ended."},
    {"stop_all", stop_all, METH_NOARGS, "Let every worker leave when its present attempt has ended."},
    {"progress", progress, METH_NOARGS, "What each of the attempts that run now has shown of itself."},
    {"packed_progress", packed_progress, METH_O, "The same as bytes, of one task or all (0); and which kinds these have."},
    {"heartbeat_ns", heartbeat_ns, METH_O, "When a worker was last seen to do something, on the monotonic clock."},
    {"ready", ready, METH_NOARGS, "Published and not yet claimed."},
    {"in_flight", in_flight, METH_NOARGS, "Slots that are not free, including drained ones not yet freed."},
    {"min_task_id", min_task_id, METH_NOARGS, "The lowest task id in flight, or None."},
    {"healthy", healthy, METH_NOARGS, "False once the segment shows anything the protocol cannot have caused."},
    {"prepare_sleep", prepare_sleep, METH_NOARGS, "Announce sleep; False: receipts are there, do not sleep."},
    {"awake", awake, METH_NOARGS, "Sleep is over; also clears the eventfd."},
    {"statistics", statistics, METH_NOARGS, "Counters since the ring was made."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_doc, "The parent's side of the ring."},
    {Py_tp_new, parent_new},
    {Py_tp_dealloc, parent_dealloc},
    {Py_tp_methods, methods},
    {0, NULL},
};

PyType_Spec parent_spec = {
    .name = "ringq.native._ring.Parent",
    .basicsize = sizeof(struct parent),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = slots,
};
