package impair

import (
	"container/heap"
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"time"
)

// Relay carries datagrams between whoever speaks to front and one server behind, each way over a path of its own. One client
// at a time: the last that spoke gets the answers.
func Relay(ctx context.Context, front *net.UDPConn, server netip.AddrPort, there, back Path) error {
	behind, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(server))
	if err != nil {
		return err
	}
	context.AfterFunc(ctx, func() { _, _ = front.Close(), behind.Close() })
	var mu sync.Mutex
	var client netip.AddrPort
	up, down := newLine(there, 1), newLine(back, 2)
	var all sync.WaitGroup
	defer all.Wait()
	all.Go(func() { up.deliver(ctx, func(b []byte) { _, _ = behind.Write(b) }) })
	all.Go(func() {
		down.deliver(ctx, func(b []byte) {
			mu.Lock()
			to := client
			mu.Unlock()
			_, _ = front.WriteToUDPAddrPort(b, to)
		})
	})
	all.Go(func() {
		_ = down.take(func(b []byte) (int, error) { return behind.Read(b) })
	})
	return up.take(func(b []byte) (int, error) {
		n, from, err := front.ReadFromUDPAddrPort(b)
		mu.Lock()
		client = from
		mu.Unlock()
		return n, err
	})
}

// line is a queue with its packets under way.
type line struct {
	queue *Queue
	mu    sync.Mutex
	under packets
	wake  chan struct{}
}

func newLine(p Path, seed uint64) *line {
	return &line{queue: NewQueue(p, seed), wake: make(chan struct{}, 1)}
}

func (l *line) take(read func([]byte) (int, error)) error {
	for b := make([]byte, 1<<16); ; {
		n, err := read(b)
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			continue // a refused datagram: nobody behind yet
		}
		at, ok := l.queue.Admit(time.Now(), n)
		if !ok {
			continue
		}
		l.mu.Lock()
		heap.Push(&l.under, packet{at, l.under.seq(), append([]byte(nil), b[:n]...)})
		l.mu.Unlock()
		select {
		case l.wake <- struct{}{}:
		default:
		}
	}
}

func (l *line) deliver(ctx context.Context, send func([]byte)) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-l.wake:
		}
		for {
			b, wait := l.due(time.Now())
			if b == nil {
				timer.Reset(wait)
				break
			}
			send(b)
		}
	}
}

// due is the next packet if its time has come, or else how long until then.
func (l *line) due(now time.Time) ([]byte, time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.under.list) == 0 {
		return nil, time.Hour
	}
	if wait := l.under.list[0].at.Sub(now); wait > 0 {
		return nil, wait
	}
	return heap.Pop(&l.under).(packet).b, 0
}

type packet struct {
	at  time.Time
	seq uint64
	b   []byte
}

// packets is a heap by time; of the same time, first come first.
type packets struct {
	list []packet
	last uint64
}

func (p *packets) seq() uint64 { p.last++; return p.last }
func (p *packets) Len() int    { return len(p.list) }
func (p *packets) Less(i, j int) bool {
	a, b := p.list[i], p.list[j]
	return a.at.Before(b.at) || a.at.Equal(b.at) && a.seq < b.seq
}
func (p *packets) Swap(i, j int) { p.list[i], p.list[j] = p.list[j], p.list[i] }
func (p *packets) Push(x any)    { p.list = append(p.list, x.(packet)) }
func (p *packets) Pop() any {
	last := p.list[len(p.list)-1]
	p.list = p.list[:len(p.list)-1]
	return last
}
