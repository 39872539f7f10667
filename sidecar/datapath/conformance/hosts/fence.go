//go:build linux

package hosts

import (
	"io"
	"net/netip"
	"testing"
	"time"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
	"github.com/tenantwire/tenantwire/sidecar/datapath/conformance"
)

// FallSilent opens a datapath behind a fence. While that is shut nothing of it reaches a peer, whatever the kernel has in its sockets, sends again, or
// answers by itself; and what was under way goes on afterwards. It shuts when it should with nobody saying so.
func FallSilent(t *testing.T, open Opener, fenced func(conformance.Options, *datapath.Fence) (datapath.Datapath, error)) {
	fence := datapath.NewFence()
	l := New(t, func(o conformance.Options) (datapath.Datapath, error) {
		if o.Host == 1 {
			return fenced(o, fence)
		}
		return open(o)
	})
	gateway, peer, stranger := openEnd(t, l, 1), openEnd(t, l, 2), openEnd(t, l, 3)
	gateway.meet(l, peer, false)
	gateway.meet(l, stranger, false)
	peer.meet(l, gateway, false)
	stranger.meet(l, gateway, false)
	if err := peer.Datapath.(datapath.Gate).OpenPorts(datapath.Ports{TCP: []uint16{80}}); err != nil {
		t.Fatal(err)
	}
	peer.HandleTCP(func(q datapath.TCPRequest) {
		if c, err := q.Accept(); err == nil {
			_, _ = io.Copy(c, c)
		}
	})
	fence.Extend(fence.Now(), time.Hour)
	x := talk(t, gateway, netip.AddrPortFrom(peer.addr[0], 80))
	x.say("one")
	x.hear("one")
	time.Sleep(300 * time.Millisecond) // the last acknowledgement

	fence.Close()
	x.say("two")
	quiet(t, gateway, peer, "shut")
	if c, err := stranger.DialUDP(t.Context(), netip.AddrPortFrom(gateway.addr[0], 53)); err == nil {
		_, _ = c.Write([]byte("x"))
		time.Sleep(200 * time.Millisecond)
		_ = c.Close()
	}
	if s := stranger.path(); s.RxBytes != 0 || !s.LastHandshake.IsZero() {
		t.Errorf("the handshake of a stranger was answered: %+v", s)
	}
	fence.Extend(fence.Now(), time.Hour)
	x.hear("two")

	fence.Extend(fence.Now(), time.Second)
	x.say("three")
	x.hear("three")
	time.Sleep(1200 * time.Millisecond)
	x.say("four")
	quiet(t, gateway, peer, "over")
	fence.Extend(fence.Now(), time.Hour)
	x.hear("four")
}

// talker is one end of a connection to an echo.
type talker struct {
	t *testing.T
	c datapath.Stream
}

func talk(t *testing.T, from *end, to netip.AddrPort) *talker {
	t.Helper()
	c, err := from.DialTCP(t.Context(), to)
	if err != nil {
		t.Fatal(err)
	}
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	return &talker{t, c}
}

func (x *talker) say(words string) {
	x.t.Helper()
	if _, err := io.WriteString(x.c, words); err != nil {
		x.t.Fatal(err)
	}
}

func (x *talker) hear(words string) {
	x.t.Helper()
	got := make([]byte, len(words))
	if _, err := io.ReadFull(x.c, got); err != nil || string(got) != words {
		x.t.Fatalf("got %q, %v", got, err)
	}
}

// quiet fails the test if anything comes to peer, which asks for it, from gateway.
func quiet(t *testing.T, gateway, peer *end, when string) {
	t.Helper()
	before := peer.path().RxBytes
	ping, err := peer.DialUDP(t.Context(), netip.AddrPortFrom(gateway.addr[0], 53)) // which the kernel would refuse
	if err != nil {
		t.Fatal(err)
	}
	defer ping.Close()
	for range 10 {
		_, _ = ping.Write([]byte("x"))
		time.Sleep(100 * time.Millisecond) // the kernel sends what is not acknowledged again meanwhile
	}
	if after := peer.path().RxBytes; after != before {
		t.Errorf("%s: %d bytes came from who may not send", when, after-before)
	}
}
