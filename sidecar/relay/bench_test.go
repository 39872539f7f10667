package relay

import (
	"context"
	"io"
	"net"
	"net/netip"
	"runtime"
	"sync"
	"testing"
	"time"
)

// BenchmarkTCP is one upload through the relay; "plain" is the same through io.Copy's 32 KiB, "none" without anything between.
func BenchmarkTCP(b *testing.B) {
	for _, m := range []mode{kernelMode, waiterMode, opaqueMode} {
		for _, way := range []string{"up", "down"} {
			b.Run(string(m)+"/"+way, func(b *testing.B) {
				f := newFakeNet(m)
				r := New(Options{Network: f})
				defer r.Close()
				c, s := benchPair(b, func(srv netip.AddrPort) netip.AddrPort {
					at := netip.MustParseAddrPort("127.77.0.9:47123")
					f.route(inner(1), srv)
					if err := r.SetForwards([]Forward{{Name: "bench", Listen: at, Protocol: TCP, Targets: []netip.AddrPort{inner(1)}}}); err != nil {
						b.Fatal(err)
					}
					return at
				})
				if way == "down" {
					c, s = s, c
				}
				transfer(b, c, s)
			})
		}
	}
	b.Run("none", func(b *testing.B) {
		c, s := benchPair(b, func(srv netip.AddrPort) netip.AddrPort { return srv })
		transfer(b, c, s)
	})
	b.Run("plain", func(b *testing.B) {
		ln := must(net.Listen("tcp", "127.0.0.1:0"))
		defer ln.Close()
		c, s := benchPair(b, func(srv netip.AddrPort) netip.AddrPort {
			go func() {
				in := must(ln.Accept())
				defer in.Close()
				out := must(net.Dial("tcp", srv.String()))
				defer out.Close()
				_, _ = io.Copy(struct{ io.Writer }{out}, struct{ io.Reader }{in})
			}()
			return addrPortOf(ln.Addr())
		})
		transfer(b, c, s)
	})
}

// BenchmarkIdle reports what an established connection that carries nothing costs in heap and stack.
func BenchmarkIdle(b *testing.B) {
	for _, m := range []mode{kernelMode, waiterMode, opaqueMode} {
		b.Run(string(m), func(b *testing.B) {
			f := newFakeNet(m)
			r := New(Options{Network: f})
			defer r.Close()
			pairs := make([][2]net.Conn, 0, 500)
			for range cap(pairs) {
				c, s := benchPair(b, func(srv netip.AddrPort) netip.AddrPort { return srv })
				pairs = append(pairs, [2]net.Conn{c, s})
			}
			m := r.meterFor(meterKey{Outbound, "idle", TCP})
			before := inUse()
			ctx, cancel := context.WithCancel(b.Context())
			var wg sync.WaitGroup
			for _, p := range pairs {
				wg.Go(func() { r.carry(ctx, localStream{p[0].(localStream).TCPConn}, f.wrap(p[1].(*net.TCPConn)), nil, m) })
			}
			time.Sleep(100 * time.Millisecond)
			b.ReportMetric(float64(inUse()-before)/float64(len(pairs)), "B/conn")
			cancel()
			wg.Wait()
		})
	}
}

func inUse() uint64 {
	var s runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&s)
	return s.HeapAlloc + s.StackInuse
}

// benchPair connects a client to a server by the way that via prepares.
func benchPair(b *testing.B, via func(srv netip.AddrPort) netip.AddrPort) (client, srv net.Conn) {
	b.Helper()
	ln := must(listenTCP(b.Context(), netip.MustParseAddrPort("127.0.0.1:0")))
	defer ln.Close()
	client = must(dialLocalTCP(b.Context(), via(addrPortOf(ln.Addr())), 0))
	srv = must(ln.Accept())
	b.Cleanup(func() { _ = client.Close(); _ = srv.Close() })
	return client, srv
}

func transfer(b *testing.B, from, to net.Conn) {
	b.Helper()
	chunk := make([]byte, 256<<10)
	b.SetBytes(int64(len(chunk)))
	b.ReportAllocs()
	b.ResetTimer()
	go func() {
		for range b.N {
			if _, err := from.Write(chunk); err != nil {
				return
			}
		}
	}()
	buf := make([]byte, 256<<10)
	for left := b.N * len(chunk); left > 0; {
		n, err := to.Read(buf)
		if err != nil {
			b.Fatal(err)
		}
		left -= n
	}
}
