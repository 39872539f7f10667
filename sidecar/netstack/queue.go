package netstack

import (
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// The queue's bounds. They are the tunnel entrance's whole buffer, so they decide what a request waits for beside bulk
// traffic: at 2.5 Gbit/s one flow's share is 0.2 ms of sending.
const (
	queueBuckets = 128      // flows are hashed into so many queues
	queueFlowMax = 64 << 10 // bytes one of them may hold before its writers wait; a packet always fits into an empty one
	queueMax     = 2 << 20  // bytes all of them together
	queueSmall   = 2 << 10  // a packet up to this size enters an empty bucket even when the queue is full
	queueQuantum = 16 << 10 // bytes a flow sends before the next one gets its turn
)

// item is a packet in the queue, with what the engine's buffer needs to hold it once cut.
type item struct {
	pkt  *stack.PacketBuffer
	size int // as gVisor holds it
	need int // in the engine's buffer, with the spacing of every segment
	segs int
}

// bucket is one flow's queue; several flows may share it.
type bucket struct {
	items   []item
	head    int
	bytes   int
	deficit int
	listed  bool
	waiters int
	starved bool // a waiter is held back by the total
	space   sync.Cond
}

// queue holds outbound packets between gVisor and the engine's reader. Writers block while their flow or the queue is full:
// a drop here would look like loss to TCP although nothing was lost. Flows take turns (deficit round robin), and one that
// has just begun to send goes first, so that a request overtakes bulk traffic.
type queue struct {
	mu      sync.Mutex
	some    sync.Cond // the reader waits here
	bytes   int
	count   int
	closed  bool
	fresh   []*bucket // flows in their first turn
	rounds  []*bucket // flows that have had one
	starved []*bucket // flows whose writers wait for the total, in order
	buckets [queueBuckets]bucket
}

func newQueue() *queue {
	q := &queue{}
	q.some.L = &q.mu
	for i := range q.buckets {
		q.buckets[i].space.L = &q.mu
	}
	return q
}

// push adds the packet, for which it takes the caller's reference, and says whether the queue was open.
func (q *queue) push(flow uint32, it item) bool {
	b := &q.buckets[flow%queueBuckets]
	q.mu.Lock()
	defer q.mu.Unlock()
	for !q.closed && !q.admits(b, it.size) {
		b.waiters++
		b.space.Wait()
		b.waiters--
	}
	if q.closed {
		return false
	}
	b.items = append(b.items, it)
	b.bytes += it.size
	q.bytes += it.size
	q.count++
	if !b.listed {
		b.listed, b.deficit = true, queueQuantum
		q.fresh = append(q.fresh, b)
	}
	if q.count == 1 {
		q.some.Signal()
	}
	return true
}

func (q *queue) admits(b *bucket, size int) bool {
	empty := b.bytes == 0
	if !empty && b.bytes+size > queueFlowMax {
		return false
	}
	if q.bytes+size <= queueMax || empty && size <= queueSmall || q.bytes == 0 {
		return true
	}
	if !b.starved {
		b.starved = true
		q.starved = append(q.starved, b)
	}
	return false
}

// pop appends to dst what fits into room bytes and slots packets of the engine's buffer, at least one item. It waits while
// the queue is empty and returns nothing once it is closed.
func (q *queue) pop(dst []item, room, slots int) []item {
	q.mu.Lock()
	defer q.mu.Unlock()
	for q.count == 0 && !q.closed {
		q.some.Wait()
	}
	for q.count > 0 {
		b := q.turn()
		it := b.items[b.head]
		if len(dst) > 0 && (it.need > room || it.segs > slots) {
			break
		}
		q.take(b)
		dst = append(dst, it)
		room -= it.need
		slots -= it.segs
	}
	return dst
}

// turn returns the flow whose turn it is: the head of fresh, else of rounds. There is one.
func (q *queue) turn() *bucket {
	for {
		list := &q.fresh
		if len(*list) == 0 {
			list = &q.rounds
		}
		b := (*list)[0]
		if b.head < len(b.items) && b.deficit > 0 {
			return b
		}
		*list = shift(*list)
		if b.head == len(b.items) {
			b.listed = false
			continue
		}
		b.deficit += queueQuantum
		q.rounds = append(q.rounds, b)
	}
}

// take removes the head of the bucket and wakes who waited for its room.
func (q *queue) take(b *bucket) {
	it := &b.items[b.head]
	b.bytes -= it.size
	b.deficit -= it.size
	q.bytes -= it.size
	q.count--
	*it = item{}
	b.head++
	if b.head == len(b.items) {
		b.items, b.head = b.items[:0], 0
	} else if b.head >= 64 && b.head*2 >= len(b.items) {
		n := copy(b.items, b.items[b.head:])
		clear(b.items[n:])
		b.items, b.head = b.items[:n], 0
	}
	if b.waiters > 0 {
		b.space.Broadcast()
	}
	if len(q.starved) > 0 && q.bytes < queueMax*3/4 {
		next := q.starved[0]
		q.starved = shift(q.starved)
		next.starved = false
		next.space.Broadcast()
	}
}

// shift drops the first element without growing the slice's hidden front.
func shift(s []*bucket) []*bucket {
	n := copy(s, s[1:])
	s[n] = nil
	return s[:n]
}

// close lets every writer and the reader go and releases what is queued.
func (q *queue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return
	}
	q.closed = true
	for i := range q.buckets {
		b := &q.buckets[i]
		for _, it := range b.items[b.head:] {
			it.pkt.DecRef()
		}
		b.items, b.head, b.bytes = nil, 0, 0
		b.space.Broadcast()
	}
	q.count, q.bytes = 0, 0
	q.fresh, q.rounds, q.starved = nil, nil, nil
	q.some.Broadcast()
}

// waitEmpty returns once nothing is queued, at the latest after the given time.
func (q *queue) waitEmpty(d time.Duration) {
	for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(time.Millisecond) {
		q.mu.Lock()
		n := q.count
		q.mu.Unlock()
		if n == 0 {
			return
		}
	}
}
