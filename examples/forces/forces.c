/* Particles that attract and repel each other, one energy per line: forces PARTICLES STEPS SEED [KILL_RATE]
 *
 * Charges of both signs in a box, moved step by step by the forces between all pairs; MPI ranks share the particles.
 * The total energy of each step is a line of forces.stat, written as soon as it is known; it stays nearly the same, as
 * it should. With KILL_RATE, that share of runs is bad: half-way the last line is "kill", and the run never ends.
 * All numbers depend on the arguments alone, not on how many ranks there are; forces.py gives the same ones bit for bit.
 */
#include <math.h>
#include <mpi.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MAX_PARTICLES 100000
static const double TIME_STEP = 1e-5, SOFTENING = 1e-4;
static const unsigned BAD_RUN_SEC = 3600;

typedef struct {
    int count, first, last; /* all particles; [first, last) are this rank's */
    double *x, *v, *f, *e;  /* places, speeds, forces: 3 numbers each; energies: one each */
    int *counts, *starts;   /* particles of each rank */
} System;

static uint64_t rng_state;

/* splitmix64: the top 53 bits make a double in [0, 1). */
static double random_unit(void) {
    uint64_t z = (rng_state += 0x9E3779B97F4A7C15ULL);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ULL;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBULL;
    z ^= z >> 31;
    return (double)(z >> 11) / 9007199254740992.0;
}

static void *room(size_t count, size_t size_bytes) {
    void *found = calloc(count, size_bytes);
    if (!found) {
        fprintf(stderr, "forces: out of memory\n");
        MPI_Abort(MPI_COMM_WORLD, 2);
    }
    return found;
}

/* Particles in a box of side 1, signs of their charges in turn; each rank has about the same number. */
static System make_system(int count, int rank, int size) {
    System s = {.count = count};
    s.x = room(3 * (size_t)count, sizeof(double));
    s.v = room(3 * (size_t)count, sizeof(double));
    s.f = room(3 * (size_t)count, sizeof(double));
    s.e = room((size_t)count, sizeof(double));
    s.counts = room((size_t)size, sizeof(int));
    s.starts = room((size_t)size, sizeof(int));
    for (int r = 0; r < size; r++) {
        s.starts[r] = (int)((int64_t)count * r / size);
        s.counts[r] = (int)((int64_t)count * (r + 1) / size) - s.starts[r];
    }
    s.first = s.starts[rank];
    s.last = s.first + s.counts[rank];
    for (int k = 0; k < 3 * count; k++) s.x[k] = random_unit();
    return s;
}

/* Forces on this rank's particles, and their energies: that of motion and half of that with each other one. */
static void compute_forces(System *s) {
    for (int i = s->first; i < s->last; i++) {
        double f0 = 0.0, f1 = 0.0, f2 = 0.0, e = 0.0;
        for (int j = 0; j < s->count; j++) {
            if (j == i) continue;
            double d0 = s->x[3 * i] - s->x[3 * j], d1 = s->x[3 * i + 1] - s->x[3 * j + 1];
            double d2 = s->x[3 * i + 2] - s->x[3 * j + 2];
            double square = d0 * d0 + d1 * d1 + d2 * d2 + SOFTENING;
            double pair = ((i + j) % 2 ? -1.0 : 1.0) / sqrt(square), slope = pair / square;
            f0 += slope * d0;
            f1 += slope * d1;
            f2 += slope * d2;
            e += 0.5 * pair;
        }
        double *f = s->f + 3 * i, w[3];
        f[0] = f0;
        f[1] = f1;
        f[2] = f2;
        for (int k = 0; k < 3; k++) w[k] = s->v[3 * i + k] + 0.5 * TIME_STEP * f[k]; /* speeds are half a step behind */
        s->e[i] = e + 0.5 * (w[0] * w[0] + w[1] * w[1] + w[2] * w[2]);
    }
}

static void move(System *s) {
    for (int k = 3 * s->first; k < 3 * s->last; k++) {
        s->v[k] += TIME_STEP * s->f[k];
        s->x[k] += TIME_STEP * s->v[k];
    }
}

/* Every rank gets all particles' numbers, `width` of each. */
static void share(const System *s, double *values, int width) {
    MPI_Datatype particle;
    MPI_Type_contiguous(width, MPI_DOUBLE, &particle);
    MPI_Type_commit(&particle);
    MPI_Allgatherv(MPI_IN_PLACE, 0, particle, values, s->counts, s->starts, particle, MPI_COMM_WORLD);
    MPI_Type_free(&particle);
}

static void run(System *s, int steps, int bad, FILE *stat) {
    for (int step = 0; step < steps; step++) {
        compute_forces(s);
        share(s, s->e, 1);
        double energy = 0.0;
        for (int i = 0; i < s->count; i++) energy += s->e[i]; /* in this order on any number of ranks */
        if (stat && fprintf(stat, "%.17g\n", energy) > 0) fflush(stat);
        if (bad && step >= steps / 2) {
            if (stat && fprintf(stat, "kill\n") > 0) fflush(stat);
            sleep(BAD_RUN_SEC);
            MPI_Abort(MPI_COMM_WORLD, 1);
        }
        move(s);
        share(s, s->x, 3);
    }
}

/* How many ranks whoever started this one meant there to be; 0 when nothing says so. */
static int ranks_meant(void) {
    static const char *const names[] = {"PMI_SIZE", "PMIX_SIZE", "OMPI_COMM_WORLD_SIZE"};
    for (size_t k = 0; k < sizeof names / sizeof *names; k++)
        if (getenv(names[k])) return atoi(getenv(names[k]));
    return 0;
}

static int usage(void) {
    fprintf(stderr, "usage: forces PARTICLES STEPS SEED [KILL_RATE]\n"
                    "PARTICLES 2 to 100000, STEPS at least 1, KILL_RATE 0 to 1\n");
    MPI_Finalize();
    return 2;
}

int main(int argc, char **argv) {
    int rank, size;
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    int count = argc > 3 ? atoi(argv[1]) : 0, steps = argc > 3 ? atoi(argv[2]) : 0;
    double kill_rate = argc > 4 ? atof(argv[4]) : 0.0;
    if (argc > 5 || count < 2 || count > MAX_PARTICLES || steps < 1 || kill_rate < 0.0 || kill_rate > 1.0)
        return usage();
    if (size == 1 && getenv("BALSAM_RANK")) { /* plain processes: the first one does the work alone */
        if (atoi(getenv("BALSAM_RANK")) > 0) return MPI_Finalize();
    } else if (size == 1 && ranks_meant() > 1) {
        fprintf(stderr, "forces: built with another MPI than that of the mpiexec that started it\n");
        MPI_Abort(MPI_COMM_WORLD, 2);
    }
    rng_state = strtoull(argv[3], NULL, 10);
    int bad = random_unit() < kill_rate;
    System s = make_system(count, rank, size);
    FILE *stat = rank == 0 ? fopen("forces.stat", "w") : NULL;
    if (rank == 0 && !stat) {
        perror("forces: forces.stat");
        MPI_Abort(MPI_COMM_WORLD, 2);
    }
    if (rank == 0) printf("%d particles, %d steps, seed %s on %d ranks\n", count, steps, argv[3], size);
    fflush(stdout);
    run(&s, steps, bad, stat);
    if (stat && (ferror(stat) | fclose(stat))) {
        perror("forces: forces.stat");
        MPI_Abort(MPI_COMM_WORLD, 2);
    }
    return MPI_Finalize();
}
