tailor_add_test(configs reader tailor::configs)
tailor_add_test(configs document tailor::configs)
