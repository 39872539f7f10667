package main

import (
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"syscall"
	"time"
)

// pinger counts the echoes of numbered messages on one socket.
type pinger struct {
	conn net.Conn
	size int

	mu       sync.Mutex
	sentAt   []time.Time // by number
	rtts     []time.Duration
	seen     map[uint64]bool
	last     time.Time
	maxGap   time.Duration
	repeated int
	next     uint64 // after the highest number seen
	gaps     time.Duration
}

// ping sends one message each interval, waits up to five seconds for the last echoes, and fails if one was lost.
func ping(ctx context.Context, network string, args []string) error {
	fs := flag.NewFlagSet(network+"-ping", flag.ExitOnError)
	interval := fs.Duration("interval", 100*time.Millisecond, "time between messages")
	duration := fs.Duration("duration", 5*time.Second, "how long to send")
	size := fs.Int("size", 64, "bytes in a message, at least 8")
	gaps := fs.Duration("gaps", 0, "print each silence that is longer, and twice a second how much has come; 0: print only the result")
	_ = fs.Parse(args)
	if fs.NArg() != 1 || *size < 8 || *interval <= 0 {
		return errors.New("want ADDRESS, a size of at least 8 and an interval")
	}
	c, err := dial(ctx, network, fs.Arg(0))
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()

	p := &pinger{conn: c, size: *size, seen: map[uint64]bool{}, last: time.Now(), gaps: *gaps}
	if *gaps > 0 {
		progress := time.NewTicker(500 * time.Millisecond)
		defer progress.Stop()
		go p.tell(progress.C)
	}
	received := make(chan error, 1)
	go func() { received <- p.receive() }()
	sendErr := p.send(ctx, *interval, *duration)
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end) && p.lost() > 0; {
		time.Sleep(10 * time.Millisecond)
	}
	_ = c.Close()
	receiveErr := <-received
	if errors.Is(receiveErr, net.ErrClosed) {
		receiveErr = nil
	}
	return p.report(errors.Join(sendErr, receiveErr))
}

func (p *pinger) send(ctx context.Context, interval, duration time.Duration) error {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	end := time.After(duration)
	for n := uint64(0); ; n++ {
		b := binary.BigEndian.AppendUint64(make([]byte, 0, p.size), n)
		p.mu.Lock()
		p.sentAt = append(p.sentAt, time.Now())
		p.mu.Unlock()
		if _, err := p.conn.Write(b[:p.size]); err != nil && !isRefused(err) {
			return fmt.Errorf("send message %d: %w", n, err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-end:
			return nil
		case <-tick.C:
		}
	}
}

func (p *pinger) receive() error {
	b := make([]byte, p.size)
	for {
		_, err := io.ReadFull(p.conn, b)
		if isRefused(err) {
			continue
		}
		if err != nil {
			return err
		}
		p.note(binary.BigEndian.Uint64(b), time.Now())
	}
}

func (p *pinger) note(n uint64, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.seen[n] || n >= uint64(len(p.sentAt)) {
		p.repeated++
		return
	}
	p.seen[n] = true
	p.rtts = append(p.rtts, now.Sub(p.sentAt[n]))
	silent := now.Sub(p.last)
	if p.gaps > 0 && silent > p.gaps {
		fmt.Printf("SILENT until %s for %dms, %d not come\n", now.Format(time.RFC3339Nano), silent.Milliseconds(), max(n, p.next)-p.next)
	}
	p.maxGap = max(p.maxGap, silent)
	p.last, p.next = now, max(p.next, n+1)
}

// tell prints how much has come.
func (p *pinger) tell(tick <-chan time.Time) {
	for now := range tick {
		p.mu.Lock()
		fmt.Printf("SEEN at %s %d of %d\n", now.Format(time.RFC3339Nano), len(p.seen), len(p.sentAt))
		p.mu.Unlock()
	}
}

// longestLoss is the longest run of messages in a row that did not come: from when the first of them was sent until the next that came
// was, or the last of all.
func (p *pinger) longestLoss() (longest time.Duration) {
	var began time.Time
	for n, at := range p.sentAt {
		switch {
		case p.seen[uint64(n)]:
			began = time.Time{}
			continue
		case began.IsZero():
			began = at
		}
		end := at
		if n+1 < len(p.sentAt) {
			end = p.sentAt[n+1]
		}
		longest = max(longest, end.Sub(began))
	}
	return longest
}

func (p *pinger) lost() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.sentAt) - len(p.seen)
}

func (p *pinger) report(err error) error {
	lost := p.lost()
	slices.Sort(p.rtts)
	quantile := func(q float64) float64 {
		if len(p.rtts) == 0 {
			return 0
		}
		return p.rtts[int(q*float64(len(p.rtts)-1))].Seconds() * 1000
	}
	printJSON(map[string]any{
		"sent": len(p.sentAt), "received": len(p.seen), "lost": lost, "repeated": p.repeated, "error": errorString(err),
		"longestLossMs": p.longestLoss().Seconds() * 1000, "maxGapMs": p.maxGap.Seconds() * 1000, "p50Ms": quantile(0.5), "p99Ms": quantile(0.99),
	})
	if err != nil || lost > 0 {
		return errReported
	}
	return nil
}

// isRefused tells an ICMP answer on a UDP socket, which says of one message that it was lost and ends nothing.
func isRefused(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Net == "udp" && errors.Is(err, syscall.ECONNREFUSED)
}
