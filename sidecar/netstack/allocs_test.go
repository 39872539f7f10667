package netstack

import (
	"context"
	"io"
	"net/netip"
	"testing"
	"time"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
)

// TestStreamAllocations guards the whole way of a stream's bytes through both stacks.
func TestStreamAllocations(t *testing.T) {
	if racing {
		t.Skip("SKIPPED: the race detector allocates")
	}
	a, b := wired(t, 1420, nil)
	client, server := connect(t, a, b, v4(2))
	const chunks = 64
	c := client.(*stream)
	chunk := make([]byte, c.ChunkSize())
	got := make(chan struct{})
	buf := make([]byte, 64<<10)
	go func() {
		for {
			left := chunks * len(chunk)
			for left > 0 {
				n, err := server.Read(buf[:min(left, len(buf))])
				if err != nil {
					return
				}
				left -= n
			}
			got <- struct{}{}
		}
	}()
	n := testing.AllocsPerRun(20, func() {
		for range chunks {
			if _, err := client.Write(chunk); err != nil {
				t.Fatal(err)
			}
		}
		<-got
	})
	if n /= chunks; n > 6 { // gVisor's for a super-segment and its acknowledgement: two or three
		t.Errorf("%.1f allocations for the %d packets of a chunk", n, segmentsPerSuper(1420))
	}
}

// TestDatagramAllocations does so for datagrams.
func TestDatagramAllocations(t *testing.T) {
	if racing {
		t.Skip("SKIPPED: the race detector allocates")
	}
	a, b := wired(t, 1420, nil)
	b.HandleUDP(func(q datapath.UDPRequest) {
		c, err := q.Accept()
		if err != nil {
			t.Error(err)
			return
		}
		go func() {
			b := make([]byte, 2000)
			for {
				n, err := c.Read(b)
				if err != nil {
					return
				}
				_, _ = c.Write(b[:n])
			}
		}()
	})
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	c, err := a.DialUDP(ctx, netip.AddrPortFrom(v4(2), 53))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	buf := make([]byte, 2000)
	n := testing.AllocsPerRun(500, func() {
		if _, err := c.Write(buf[:1000]); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadAtLeast(c, buf, 1000); err != nil {
			t.Fatal(err)
		}
	})
	if n > 16 { // gVisor's, of which there are seven each way; none is ours
		t.Errorf("%.0f allocations for a datagram and its echo", n)
	}
}
