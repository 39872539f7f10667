package impair

import (
	"container/heap"
	"math"
	"net"
	"net/netip"
	"testing"
	"time"
)

var zero = time.Unix(0, 0)

func TestPerfectPath(t *testing.T) {
	if at, ok := NewQueue(Path{}, 1).Admit(zero, 1500); !ok || at != zero {
		t.Error(at, ok)
	}
}

func TestLossAndReordering(t *testing.T) {
	const n = 100000
	q := NewQueue(Path{Loss: 0.01, Reorder: 0.05, Late: time.Second}, 7)
	lost, late := 0, 0
	for range n {
		switch at, ok := q.Admit(zero, 100); {
		case !ok:
			lost++
		case at.After(zero):
			late++
		}
	}
	if math.Abs(float64(lost)/n-0.01) > 0.002 || math.Abs(float64(late)/n-0.05*0.99) > 0.004 {
		t.Errorf("%d lost, %d late of %d", lost, late, n)
	}
}

func TestBottleneck(t *testing.T) {
	q := NewQueue(Path{Rate: 8000, Queue: 3000, Delay: time.Minute}, 1) // 1,000 bytes a second
	for i, want := range []time.Duration{1, 2, 3, 0} {
		at, ok := q.Admit(zero, 1000)
		if want == 0 {
			if ok {
				t.Error("a full queue took a packet")
			}
			continue
		}
		if !ok || at.Sub(zero) != want*time.Second+time.Minute {
			t.Errorf("packet %d: %v %v", i, at.Sub(zero), ok)
		}
	}
	if at, ok := q.Admit(zero.Add(10*time.Second), 1000); !ok || at.Sub(zero) != 11*time.Second+time.Minute {
		t.Error("an idle bottleneck saves nothing up, and owes nothing:", at.Sub(zero), ok)
	}
	if _, ok := NewQueue(Path{Rate: 8, Queue: 10}, 1).Admit(zero, 1500); !ok {
		t.Error("a packet larger than the queue never gets through")
	}
}

func TestPacketsComeInOrder(t *testing.T) {
	var p packets
	for i, at := range []int64{3, 1, 1, 2} {
		heap.Push(&p, packet{time.Unix(at, 0), p.seq(), []byte{byte(i)}})
	}
	for _, want := range []byte{1, 2, 3, 0} {
		if got := heap.Pop(&p).(packet).b[0]; got != want {
			t.Errorf("%d, want %d", got, want)
		}
	}
}

func TestRelayCarriesBothWays(t *testing.T) {
	server, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	go func() {
		b := make([]byte, 100)
		for {
			n, from, err := server.ReadFrom(b)
			if err != nil {
				return
			}
			_, _ = server.WriteTo(append([]byte("re: "), b[:n]...), from)
		}
	}()
	front, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.MustParseAddrPort("127.0.0.1:0")))
	if err != nil {
		t.Fatal(err)
	}
	slow := Path{Delay: 20 * time.Millisecond}
	go func() { _ = Relay(t.Context(), front, server.LocalAddr().(*net.UDPAddr).AddrPort(), slow, slow) }()
	c, err := net.Dial("udp", front.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	begin, b := time.Now(), make([]byte, 100)
	if _, err := c.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	n, err := c.Read(b)
	if err != nil || string(b[:n]) != "re: x" {
		t.Errorf("%q %v", b[:n], err)
	}
	if took := time.Since(begin); took < 40*time.Millisecond { // a lower bound: a busy machine cannot break it
		t.Error("came back after", took)
	}
}
