package limits

import (
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
)

// The collector lets a heap grow to twice what lives. With a thousand connections that is tens of megabytes of nothing, in every sidecar of a
// node; and packets make no garbage, so that a heap may be collected much earlier at no cost that could be measured.
const (
	// heapRoom is how much the heap may grow between collections, bytes, where more than that lives.
	heapRoom = 8 << 20
	// leastPercent bounds what a collection costs for each byte of garbage, whatever lives.
	leastPercent = 10
	mostPercent  = 100
)

// watchCollections has the heap grow by no more than heapRoom, and what was run between collections forgotten. GOGC, where it is set, goes before.
func watchCollections() { afterCollection(mostPercent, os.Getenv("GOGC") == "") }

// afterCollection looks after each collection, from the next on, how much lives. An object that nobody has is found by each.
func afterCollection(percent int, ours bool) {
	runtime.SetFinalizer(&sentinel{}, func(*sentinel) {
		next := garbagePercent(scanned())
		if ours && next != percent {
			debug.SetGCPercent(next)
		}
		forgetProgram()
		afterCollection(next, ours)
	})
}

type sentinel struct{ _ [16]byte }

// scanned is what the last collection went through, bytes: the runtime takes its percentage of that.
func scanned() uint64 {
	of := []metrics.Sample{{Name: "/gc/heap/live:bytes"}, {Name: "/gc/scan/stack:bytes"}, {Name: "/gc/scan/globals:bytes"}}
	metrics.Read(of)
	var n uint64
	for _, m := range of {
		if m.Value.Kind() == metrics.KindUint64 {
			n += m.Value.Uint64()
		}
	}
	return n
}

// garbagePercent is heapRoom as a part of what lives, in steps, as each change stops the process for a moment.
func garbagePercent(lives uint64) int {
	const step = 5
	percent := heapRoom * 100 / max(lives, 1)
	return int(min(max(percent/step*step, leastPercent), mostPercent))
}
