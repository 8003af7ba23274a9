/* Lowest energy of a Lennard-Jones cluster by basin hopping; every hop is relaxed with the FIRE minimiser.
 *
 *   cluster --write-input FILE --atoms 13 --seed 1 --hop-size 0.4 --temperature 0.8 --hops 200
 *   cluster INPUT OUTPUT
 *
 * Reduced units (sigma = epsilon = 1). The result depends on the input alone: the random numbers come from the
 * generator below, which cluster.py repeats bit for bit.
 */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_ATOMS 150
#define MAX_COORDS (3 * MAX_ATOMS)

typedef struct {
    int atoms;
    uint64_t seed;
    double hop_size, temperature;
    int hops;
} Input;

static uint64_t rng_state;
static long evaluations;

/* splitmix64: the top 53 bits make a double in [0, 1). */
static double random_unit(void) {
    uint64_t z = (rng_state += 0x9E3779B97F4A7C15ULL);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ULL;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBULL;
    z ^= z >> 31;
    return (double)(z >> 11) / 9007199254740992.0;
}

static double energy_and_forces(int n, const double *x, double *f) {
    double energy = 0.0;
    memset(f, 0, 3 * (size_t)n * sizeof *f);
    for (int i = 0; i < n; i++)
        for (int j = i + 1; j < n; j++) {
            double d[3], r2 = 0.0;
            for (int k = 0; k < 3; k++) {
                d[k] = x[3 * i + k] - x[3 * j + k];
                r2 += d[k] * d[k];
            }
            double inv2 = 1.0 / r2, inv6 = inv2 * inv2 * inv2;
            double slope = 24.0 * inv6 * (2.0 * inv6 - 1.0) * inv2;
            energy += 4.0 * inv6 * (inv6 - 1.0);
            for (int k = 0; k < 3; k++) {
                f[3 * i + k] += slope * d[k];
                f[3 * j + k] -= slope * d[k];
            }
        }
    evaluations++;
    return energy;
}

static double dot(int m, const double *a, const double *b) {
    double sum = 0.0;
    for (int k = 0; k < m; k++) sum += a[k] * b[k];
    return sum;
}

static double largest(int m, const double *a) {
    double top = 0.0;
    for (int k = 0; k < m; k++)
        if (fabs(a[k]) > top) top = fabs(a[k]);
    return top;
}

/* FIRE (Bitzek et al. 2006): downhill dynamics that stops and restarts when it climbs. Returns 1 when the largest
 * force component fell below 1e-7. A step moves no coordinate by more than 0.1, so overlapping atoms do no harm. */
static int relax(int n, double *x, double *energy) {
    static double f[MAX_COORDS], v[MAX_COORDS], step[MAX_COORDS];
    const double dt_max = 0.05;
    double dt = 0.01, mix = 0.1;
    int m = 3 * n, downhill = 0;
    memset(v, 0, sizeof v);
    *energy = energy_and_forces(n, x, f);
    for (int it = 0; it < 20000; it++) {
        if (largest(m, f) < 1e-7) return 1;
        double power = dot(m, f, v);
        if (power > 0.0) {
            double ratio = sqrt(dot(m, v, v) / dot(m, f, f));
            for (int k = 0; k < m; k++) v[k] = (1.0 - mix) * v[k] + mix * ratio * f[k];
            if (++downhill > 5) {
                dt = fmin(dt * 1.1, dt_max);
                mix *= 0.99;
            }
        } else {
            memset(v, 0, sizeof v);
            dt *= 0.5;
            mix = 0.1;
            downhill = 0;
        }
        for (int k = 0; k < m; k++) {
            v[k] += dt * f[k];
            step[k] = dt * v[k];
        }
        double top = largest(m, step), scale = top > 0.1 ? 0.1 / top : 1.0;
        for (int k = 0; k < m; k++) x[k] += scale * step[k];
        *energy = energy_and_forces(n, x, f);
    }
    return 0;
}

/* Atoms fill a ball of the density of the solid. */
static void random_start(int n, double *x) {
    double radius = 0.7 * cbrt((double)n);
    for (int i = 0; i < n;) {
        double p[3], r2 = 0.0;
        for (int k = 0; k < 3; k++) {
            p[k] = 2.0 * random_unit() - 1.0;
            r2 += p[k] * p[k];
        }
        if (r2 > 1.0) continue;
        for (int k = 0; k < 3; k++) x[3 * i + k] = radius * p[k];
        i++;
    }
}

static int search(const Input *in, FILE *out) {
    static double current[MAX_COORDS], trial[MAX_COORDS], best[MAX_COORDS];
    int m = 3 * in->atoms, best_hop = 0;
    double e_current, e_trial, e_best;
    size_t bytes = (size_t)m * sizeof(double);

    rng_state = in->seed;
    random_start(in->atoms, current);
    int converged = relax(in->atoms, current, &e_current);
    memcpy(best, current, bytes);
    e_best = e_current;
    fprintf(out, "# hop energy best\n0 %.9f %.9f\n", e_current, e_best);
    for (int hop = 1; hop <= in->hops; hop++) {
        for (int k = 0; k < m; k++) trial[k] = current[k] + in->hop_size * (2.0 * random_unit() - 1.0);
        int ok = relax(in->atoms, trial, &e_trial);
        double draw = random_unit();
        if (ok && (e_trial <= e_current || draw < exp((e_current - e_trial) / in->temperature))) {
            memcpy(current, trial, bytes);
            e_current = e_trial;
        }
        if (ok && e_trial < e_best - 1e-9) {
            memcpy(best, trial, bytes);
            e_best = e_trial;
            best_hop = hop;
            converged = 1;
        }
        fprintf(out, "%d %.9f %.9f\n", hop, e_trial, e_best);
        fflush(out);
    }
    fprintf(out, "energy %.9f\nbest_hop %d\nconverged %d\nevaluations %ld\n", e_best, best_hop, converged, evaluations);
    fprintf(out, "# geometry\n");
    for (int i = 0; i < in->atoms; i++) fprintf(out, "%.9f %.9f %.9f\n", best[3 * i], best[3 * i + 1], best[3 * i + 2]);
    return converged;
}

static int fail(const char *what, const char *detail) {
    fprintf(stderr, "cluster: %s: %s\n", what, detail);
    return 2;
}

static int set_field(Input *in, const char *name, const char *text) {
    char *end;
    double value = strtod(text, &end);
    if (end == text || *end || !isfinite(value)) return 0;
    if (!strcmp(name, "atoms")) in->atoms = (int)value;
    else if (!strcmp(name, "seed")) in->seed = (uint64_t)value;
    else if (!strcmp(name, "hop-size")) in->hop_size = value;
    else if (!strcmp(name, "temperature")) in->temperature = value;
    else if (!strcmp(name, "hops")) in->hops = (int)value;
    else return 0;
    return 1;
}

static const char *wrong(const Input *in) {
    if (in->atoms < 2 || in->atoms > MAX_ATOMS) return "atoms must be 2 to 150";
    if (in->hop_size <= 0.0) return "hop-size must be positive";
    if (in->temperature <= 0.0) return "temperature must be positive";
    if (in->hops < 0) return "hops must not be negative";
    return NULL;
}

static int write_input(int argc, char **argv) {
    Input in = {13, 1, 0.4, 0.8, 200};
    for (int k = 3; k < argc; k += 2)
        if (strncmp(argv[k], "--", 2) || k + 1 == argc || !set_field(&in, argv[k] + 2, argv[k + 1]))
            return fail("not an option with a number", argv[k]);
    if (wrong(&in)) return fail("input", wrong(&in));
    FILE *file = fopen(argv[2], "w");
    if (!file) return fail("cannot write", argv[2]);
    fprintf(file, "atoms %d\nseed %llu\nhop-size %.17g\ntemperature %.17g\nhops %d\n", in.atoms,
            (unsigned long long)in.seed, in.hop_size, in.temperature, in.hops);
    return fclose(file) ? fail("cannot write", argv[2]) : 0;
}

static int read_input(const char *path, Input *in) {
    char name[64], text[64];
    FILE *file = fopen(path, "r");
    if (!file) return fail("cannot read", path);
    int got, ok = 1;
    while (ok && (got = fscanf(file, "%63s %63s", name, text)) != EOF) ok = got == 2 && set_field(in, name, text);
    fclose(file);
    if (!ok) return fail("line not understood", name);
    return wrong(in) ? fail(path, wrong(in)) : 0;
}

int main(int argc, char **argv) {
    Input in = {13, 1, 0.4, 0.8, 200};
    if (argc >= 3 && !strcmp(argv[1], "--write-input")) return write_input(argc, argv);
    if (argc != 3) return fail("usage", "cluster INPUT OUTPUT | cluster --write-input FILE [--atoms N ...]");
    if (read_input(argv[1], &in)) return 2;
    FILE *out = fopen(argv[2], "w");
    if (!out) return fail("cannot write", argv[2]);
    fprintf(out, "# Lennard-Jones cluster: %d atoms, seed %llu, hop size %g, temperature %g, %d hops\n", in.atoms,
            (unsigned long long)in.seed, in.hop_size, in.temperature, in.hops);
    int converged = search(&in, out);
    if (fclose(out)) return fail("cannot write", argv[2]);
    printf("cluster of %d atoms done, result in %s\n", in.atoms, argv[2]);
    return converged ? 0 : 1;
}
