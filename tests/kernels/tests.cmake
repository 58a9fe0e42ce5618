sluice_test(kernels_tests
  SOURCES kernels/dequant_test.cc kernels/math_test.cc kernels/components_test.cc kernels/matmul_test.cc
  LIBS sluice_kernels)
