// What Python sees of mixtures.
#pragma once
#include <nanobind/nanobind.h>

#include "mixture_tables.h"

void bind_mixtures(nanobind::module_& m, const latentvars::MixtureKernels* kernels);
