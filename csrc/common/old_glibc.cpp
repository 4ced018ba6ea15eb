// Lets a library built on a new Linux load on an old one. std::shared_ptr asks the C library whether the process has
// one thread, by a variable that came with glibc 2.32; this one, seen inside the library alone, says that it has more,
// which is what a process with PyTorch has.
#ifdef __linux__
extern "C" {
__attribute__((visibility("hidden"))) char __libc_single_threaded = 0;
}
#endif
