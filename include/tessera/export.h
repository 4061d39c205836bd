#pragma once

// Marks what libtessera.so shows; everything else in it is hidden. Users need not write it.
#define TESSERA_API __attribute__((visibility("default")))
