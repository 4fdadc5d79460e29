/* Shared by the files of the CPython binding: arguments, mappings, rows. No algorithm lives here. */
#ifndef RQ_BINDING_H
#define RQ_BINDING_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "process.h"
#include "ring.h"

/* The mapping an object owns. It does not own the descriptor: a handler may close that. */
struct mapping {
    unsigned char *memory;
    size_t bytes;
    unsigned forks; /* of this process when it was made: MADV_DONTFORK leaves nothing of it in a child */
};

struct module_state {
    PyTypeObject *parent_type;
    PyTypeObject *worker_type;
    PyTypeObject *recovery_type;
    PyObject *ring_damaged;
};

extern PyType_Spec parent_spec;
extern PyType_Spec worker_spec;
extern PyType_Spec recovery_spec;

/* Each returns -1 or NULL with an exception set. */
int map_segment(struct mapping *mapping, int fd, PyObject *size, bool writable);
void unmap_segment(struct mapping *mapping);
int check_not_forked(const struct mapping *mapping);
int parse_unsigned(PyObject *value, const char *name, uint64_t max, uint64_t *parsed);
int parse_signed(PyObject *value, const char *name, int64_t *parsed);
int parse_identity(struct rq_identity *id, Py_buffer *uuid, PyObject *epoch, PyObject *nonce);
int parse_shape(struct rq_geometry *g, PyObject *slots, PyObject *workers, PyObject *blocks, PyObject *ring_bytes);
int check_count(const char *method, Py_ssize_t got, Py_ssize_t least, Py_ssize_t most);

/* (rows, spilled, damaged): the triple of drain() and receipts() while it grows. */
struct harvest {
    PyObject *rows;
    PyObject *spilled;
    PyObject *damaged;
};

int harvest_begin(struct harvest *harvest);
/* 1: taken as a row; 0: taken as damaged (also a body that is no UTF-8). */
int harvest_add(struct harvest *harvest, enum rq_taken taken, const struct rq_row *row);
PyObject *harvest_end(struct harvest *harvest);
void harvest_drop(struct harvest *harvest);

#endif
