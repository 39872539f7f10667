// Package limits is how much of a machine a sidecar's process takes: memory and CPUs.
package limits

import (
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
)

// Apply sets all. It is called first of all, since others size themselves by it.
func Apply() {
	limitMemory()
	watchCollections()
	forgetProgram()
	limitProcessors()
}

// limitMemory keeps the heap below the container's limit (MEMORY_LIMIT, bytes), so that the collector works harder before the
// kernel ends the process. GOMEMLIMIT, where it is set, goes before.
func limitMemory() {
	if n, err := strconv.ParseInt(os.Getenv("MEMORY_LIMIT"), 10, 64); err == nil && n > 0 && os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(n / 10 * 8)
	}
}

// limitProcessors leaves the application its share of the CPUs; GOMAXPROCS, where it is set, goes before.
func limitProcessors() {
	if os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(processors(runtime.GOMAXPROCS(0)))
	}
}

// processors is how many threads run Go code at a time, of so many CPUs that the machine or the container's limit has. Whoever
// has a packet carries it to the end, so that more of them do not make one stream faster: what they do is wake each other for
// every message and look for work in vain, which costs a third of all CPU time on a machine of two.
func processors(cpus int) int { return min(max(1, cpus/2), maxProcessors) }

// maxProcessors is for many streams at once: one reads the socket, the others encrypt.
const maxProcessors = 4
