/* A stand-in for libnvidia-ml: cards come from the file that FAKE_NVML names.
 *
 *   driver 580.65.06
 *   cuda 13000
 *   init 0                                     what nvmlInit returns
 *   card UUID|NAME|MAJOR|MINOR|TOTAL|FREE|CORES|MIG
 *   mig UUID|NAME|TOTAL|FREE|GPU INSTANCE|COMPUTE INSTANCE        belongs to the card above
 *   lost                                       a card that answers nothing
 *
 * Sizes are bytes; 0 for TOTAL means that the card does not tell.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct unit {
    char uuid[96], name[96];
    int major, minor, mig, lost, gi, ci, instances;
    unsigned int cores;
    unsigned long long total, free;
    struct unit *instance[8];
};
struct memory {
    unsigned long long total, free, used;
};

enum { OK = 0, INVALID = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, LOST = 15 };
static struct unit *cards[16];
static unsigned int count;
static int cuda, outcome;
static char driver[96];

static void read_file(void) {
    char line[512];
    FILE *file = fopen(getenv("FAKE_NVML"), "r");
    count = 0;
    while (file && fgets(line, sizeof line, file)) {
        struct unit *unit = calloc(1, sizeof *unit);
        line[strcspn(line, "\n")] = 0;
        if (sscanf(line, "driver %95s", driver) == 1 || sscanf(line, "cuda %d", &cuda) == 1 ||
            sscanf(line, "init %d", &outcome) == 1) {
            free(unit);
        } else if (!strcmp(line, "lost")) {
            unit->lost = 1;
            cards[count++] = unit;
        } else if (sscanf(line, "card %95[^|]|%95[^|]|%d|%d|%llu|%llu|%u|%d", unit->uuid, unit->name, &unit->major,
                          &unit->minor, &unit->total, &unit->free, &unit->cores, &unit->mig) == 8) {
            cards[count++] = unit;
        } else if (count && sscanf(line, "mig %95[^|]|%95[^|]|%llu|%llu|%d|%d", unit->uuid, unit->name, &unit->total,
                                   &unit->free, &unit->gi, &unit->ci) == 6) {
            struct unit *parent = cards[count - 1];
            unit->mig = -1;
            parent->instance[parent->instances++] = unit;
        }
    }
    if (file)
        fclose(file);
}

int nvmlInitWithFlags(unsigned int flags) {
    (void)flags;
    read_file();
    return outcome;
}
int nvmlShutdown(void) { return OK; }
const char *nvmlErrorString(int code) { return code == 9 ? "Driver Not Loaded" : "an error of the fake library"; }
int nvmlSystemGetDriverVersion(char *out, unsigned int size) { return snprintf(out, size, "%s", driver) < 0; }
int nvmlSystemGetCudaDriverVersion(int *out) { return *out = cuda, OK; }
int nvmlDeviceGetCount_v2(unsigned int *out) { return *out = count, OK; }
int nvmlDeviceGetHandleByIndex_v2(unsigned int index, struct unit **out) {
    if (index >= count)
        return INVALID;
    *out = cards[index];
    return cards[index]->lost ? LOST : OK;
}
int nvmlDeviceGetUUID(struct unit *unit, char *out, unsigned int size) { return snprintf(out, size, "%s", unit->uuid) < 0; }
int nvmlDeviceGetName(struct unit *unit, char *out, unsigned int size) { return snprintf(out, size, "%s", unit->name) < 0; }
int nvmlDeviceGetCudaComputeCapability(struct unit *unit, int *major, int *minor) {
    *major = unit->major;
    *minor = unit->minor;
    return unit->major ? OK : NOT_SUPPORTED;
}
int nvmlDeviceGetMemoryInfo(struct unit *unit, struct memory *out) {
    out->total = unit->total;
    out->free = unit->free;
    out->used = unit->total - unit->free;
    return unit->total ? OK : NOT_SUPPORTED;
}
int nvmlDeviceGetMigMode(struct unit *unit, unsigned int *current, unsigned int *pending) {
    *current = *pending = unit->mig > 0;
    return unit->mig < 0 ? NOT_SUPPORTED : OK;
}
int nvmlDeviceGetMaxMigDeviceCount(struct unit *unit, unsigned int *out) { return *out = unit->mig > 0 ? 7 : 0, OK; }
int nvmlDeviceGetMigDeviceHandleByIndex(struct unit *unit, unsigned int index, struct unit **out) {
    if ((int)index >= unit->instances)
        return NOT_FOUND;
    *out = unit->instance[index];
    return OK;
}
int nvmlDeviceGetGpuInstanceId(struct unit *unit, unsigned int *out) { return *out = unit->gi, OK; }
int nvmlDeviceGetComputeInstanceId(struct unit *unit, unsigned int *out) { return *out = unit->ci, OK; }
int nvmlDeviceGetNumGpuCores(struct unit *unit, unsigned int *out) {
    *out = unit->cores;
    return unit->cores ? OK : NOT_SUPPORTED;
}
