/* A stand-in for libcuda: FAKE_CUDA holds the UUIDs of the devices in CUDA's order, 32 hexadecimal digits each, by comma. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int cuInit(unsigned int flags) { return flags ? 1 : getenv("FAKE_CUDA") ? 0 : 100; }
int cuDeviceGetCount(int *out) { return *out = (int)(strlen(getenv("FAKE_CUDA")) + 1) / 33, 0; }
int cuDeviceGetUuid_v2(unsigned char *out, int device) {
    const char *text = getenv("FAKE_CUDA") + 33 * device;
    for (int byte = 0; byte < 16; byte++) {
        unsigned int value;
        if (sscanf(text + 2 * byte, "%2x", &value) != 1)
            return 1;
        out[byte] = (unsigned char)value;
    }
    return 0;
}
