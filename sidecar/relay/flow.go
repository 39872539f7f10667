package relay

import (
	"container/list"
	"net"
	"net/netip"
	"sync"
	"time"
)

// flow is one UDP conversation: the far socket, and whom it belongs to.
type flow[K comparable] struct {
	key    K
	conn   net.Conn       // closing it ends the flow's goroutine
	target netip.AddrPort // what conn is connected to
	name   string         // of the forward that it was started for
	served target         // of a flow to what is published: the same
	onEnd  func()         // called once, when the flow leaves the table

	used time.Time     // guarded by the table
	elem *list.Element // nil once it has left
}

// flowTable holds the flows of one owner. It is bounded, the least recently used gives way, and silence for the idle time ends
// a flow. One timer serves the whole table.
type flowTable[K comparable] struct {
	idle time.Duration
	max  int
	// yields is asked, when the table is full, which flows are to give way; nil, or none of them: the least recently used of all does.
	yields func() func(*flow[K]) bool

	mu     sync.Mutex
	flows  map[K]*flow[K]
	recent list.List // *flow[K], the most recently used in front
	timer  *time.Timer
	closed bool
}

func newFlowTable[K comparable](idle time.Duration, limit int) *flowTable[K] {
	return &flowTable[K]{idle: idle, max: limit, flows: map[K]*flow[K]{}}
}

// get returns the flow of a key and counts as use.
func (t *flowTable[K]) get(key K) *flow[K] {
	t.mu.Lock()
	defer t.mu.Unlock()
	f := t.flows[key]
	if f != nil {
		t.use(f)
	}
	return f
}

// touch counts as use, unless the flow has left.
func (t *flowTable[K]) touch(f *flow[K]) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if f.elem != nil {
		t.use(f)
	}
}

func (t *flowTable[K]) use(f *flow[K]) {
	f.used = time.Now()
	t.recent.MoveToFront(f.elem)
}

// put adds a flow in place of one with the same key; evicted says that another had to give way. False, and the flow is not
// taken, when the table is closed.
func (t *flowTable[K]) put(f *flow[K]) (evicted, ok bool) {
	t.mu.Lock()
	if t.closed {
		t.mu.Unlock()
		return false, false
	}
	var gone []*flow[K]
	if old := t.flows[f.key]; old != nil {
		t.unlink(old)
		gone = append(gone, old)
	}
	if len(t.flows) >= t.max {
		old := t.surplus()
		t.unlink(old)
		gone = append(gone, old)
		evicted = true
	}
	f.used = time.Now()
	f.elem = t.recent.PushFront(f)
	t.flows[f.key] = f
	if t.timer == nil {
		t.timer = time.AfterFunc(t.idle, t.expire)
	}
	t.mu.Unlock()
	endAll(gone)
	return evicted, true
}

// remove ends a flow; the second time does nothing.
func (t *flowTable[K]) remove(f *flow[K]) {
	t.mu.Lock()
	linked := f.elem != nil
	if linked {
		t.unlink(f)
	}
	t.mu.Unlock()
	if linked {
		endAll([]*flow[K]{f})
	}
}

// removeIf ends the flows that match.
func (t *flowTable[K]) removeIf(match func(*flow[K]) bool) {
	t.mu.Lock()
	var gone []*flow[K]
	for _, f := range t.flows {
		if match(f) {
			t.unlink(f)
			gone = append(gone, f)
		}
	}
	t.mu.Unlock()
	endAll(gone)
}

// surplus is the flow that gives way to a new one. It needs the lock.
func (t *flowTable[K]) surplus() *flow[K] {
	if t.yields != nil {
		if f := t.oldest(t.yields()); f != nil {
			return f
		}
	}
	return t.recent.Back().Value.(*flow[K])
}

// oldest is the least recently used flow that matches, or nil. It needs the lock.
func (t *flowTable[K]) oldest(match func(*flow[K]) bool) *flow[K] {
	for e := t.recent.Back(); e != nil; e = e.Prev() {
		if f := e.Value.(*flow[K]); match(f) {
			return f
		}
	}
	return nil
}

// evict ends the least recently used flow that matches; false when none does.
func (t *flowTable[K]) evict(match func(*flow[K]) bool) bool {
	t.mu.Lock()
	f := t.oldest(match)
	if f != nil {
		t.unlink(f)
	}
	t.mu.Unlock()
	if f == nil {
		return false
	}
	endAll([]*flow[K]{f})
	return true
}

// close ends all flows and takes no more.
func (t *flowTable[K]) close() {
	t.mu.Lock()
	t.closed = true
	t.mu.Unlock()
	t.removeIf(func(*flow[K]) bool { return true })
}

func (t *flowTable[K]) expire() {
	now := time.Now()
	t.mu.Lock()
	var gone []*flow[K]
	for e := t.recent.Back(); e != nil; e = t.recent.Back() {
		f := e.Value.(*flow[K])
		if left := t.idle - now.Sub(f.used); left > 0 {
			t.timer.Reset(left)
			break
		}
		t.unlink(f)
		gone = append(gone, f)
	}
	t.mu.Unlock()
	endAll(gone)
}

// unlink needs the lock.
func (t *flowTable[K]) unlink(f *flow[K]) {
	t.recent.Remove(f.elem)
	f.elem = nil
	delete(t.flows, f.key)
	if len(t.flows) == 0 && t.timer != nil {
		t.timer.Stop()
		t.timer = nil
	}
}

// endAll runs without the lock: closing a socket may take locks of the stack's.
func endAll[K comparable](flows []*flow[K]) {
	for _, f := range flows {
		f.onEnd() // first: whoever waits for the flow's goroutine, which closing ends, is to find it accounted for
		_ = f.conn.Close()
	}
}
