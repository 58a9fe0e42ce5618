sluice_test(kernels_tests
  SOURCES kernels/dequant_test.cc
  LIBS sluice_kernels)
