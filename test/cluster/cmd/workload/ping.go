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
}

// ping sends one message each interval, waits up to five seconds for the last echoes, and fails if one was lost.
func ping(ctx context.Context, network string, args []string) error {
	fs := flag.NewFlagSet(network+"-ping", flag.ExitOnError)
	interval := fs.Duration("interval", 100*time.Millisecond, "time between messages")
	duration := fs.Duration("duration", 5*time.Second, "how long to send")
	size := fs.Int("size", 64, "bytes in a message, at least 8")
	_ = fs.Parse(args)
	if fs.NArg() != 1 || *size < 8 || *interval <= 0 {
		return errors.New("want ADDRESS, a size of at least 8 and an interval")
	}
	c, err := dial(ctx, network, fs.Arg(0))
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()

	p := &pinger{conn: c, size: *size, seen: map[uint64]bool{}, last: time.Now()}
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
	p.maxGap = max(p.maxGap, now.Sub(p.last))
	p.last = now
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
		"maxGapMs": p.maxGap.Seconds() * 1000, "p50Ms": quantile(0.5), "p99Ms": quantile(0.99),
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
