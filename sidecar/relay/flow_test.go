package relay

import (
	"net"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// endings are the keys of the flows that ended, in order.
type endings struct {
	mu   sync.Mutex
	keys []int
}

func (e *endings) list() []int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.keys)
}

func (e *endings) flow(key int) *flow[int] {
	a, _ := net.Pipe()
	f := &flow[int]{key: key, conn: a}
	f.onEnd = func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		e.keys = append(e.keys, key)
	}
	return f
}

func TestFlowsExpire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var ended endings
		table := newFlowTable[int](time.Minute, 10)
		one, two := ended.flow(1), ended.flow(2)
		table.put(one)
		time.Sleep(40 * time.Second)
		table.put(two)
		time.Sleep(10 * time.Second)
		table.touch(one) // at 50 s: one lives until 110 s, two until 100 s
		time.Sleep(49 * time.Second)
		synctest.Wait()
		if len(ended.list()) != 0 {
			t.Fatalf("at 99 s ended: %v", ended.list())
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if len(ended.list()) != 1 || ended.list()[0] != 2 {
			t.Fatalf("at 101 s ended: %v", ended.list())
		}
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if len(ended.list()) != 2 || table.size() != 0 {
			t.Fatalf("at 111 s ended: %v", ended.list())
		}
		if _, err := one.conn.Write(nil); err == nil {
			t.Error("the socket is still open")
		}
		table.touch(one)
		table.remove(one) // late calls do nothing
		if len(ended.list()) != 2 {
			t.Errorf("ended twice: %v", ended.list())
		}
	})
}

func TestFlowsAreBounded(t *testing.T) {
	var ended endings
	table := newFlowTable[int](time.Minute, 3)
	for i := range 3 {
		if evicted, ok := table.put(ended.flow(i)); evicted || !ok {
			t.Fatal(evicted, ok)
		}
	}
	table.get(0) // now 1 is the least recently used
	if evicted, _ := table.put(ended.flow(3)); !evicted {
		t.Error("nothing was evicted")
	}
	if len(ended.list()) != 1 || ended.list()[0] != 1 {
		t.Errorf("evicted %v", ended.list())
	}
	table.put(ended.flow(3)) // the same key again: replaced
	if len(ended.list()) != 2 || ended.list()[1] != 3 || len(table.flows) != 3 {
		t.Errorf("ended %v, %d left", ended.list(), len(table.flows))
	}
	table.close()
	if len(ended.list()) != 5 {
		t.Errorf("ended %v", ended.list())
	}
	if _, ok := table.put(ended.flow(9)); ok {
		t.Error("a closed table takes flows")
	}
}

func (t *flowTable[K]) size() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.flows)
}
