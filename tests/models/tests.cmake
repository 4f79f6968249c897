tailor_add_test(models matvec tailor::kernels)
tailor_add_test(models random)
