tailor_add_test(models matvec tailor::kernels)
tailor_add_test(models random)
tailor_add_test(models cached_attention tailor::kernels)
tailor_add_test(models sampler tailor::generation)
