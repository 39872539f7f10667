package agent

import (
	"context"
	"log/slog"
	"net/netip"
	"testing"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
	"github.com/tenantwire/tenantwire/sidecar/device"
	"github.com/tenantwire/tenantwire/sidecar/key"
	"github.com/tenantwire/tenantwire/sidecar/relay"
)

// flushing is a datapath that is asked to flush.
type flushing struct {
	datapath.Datapath
	asked func(context.Context)
}

func (f flushing) Flush(ctx context.Context) error {
	f.asked(ctx)
	return nil
}

// TestDrainFlushes: when all connections have ended, the drain waits, as long as it may, for peers to have what these had written.
func TestDrainFlushes(t *testing.T) {
	dev, err := device.Open(device.Options{PrivateKey: key.NewPrivate(), Interface: datapath.Interface{Addresses: []netip.Prefix{memberAddress}, MTU: 1420}})
	must(t, err)
	p := newPlane(key.NewPrivate(), 0, choice{}, slog.New(slog.DiscardHandler))
	var asked []context.Context
	p.device = flushing{dev, func(ctx context.Context) { asked = append(asked, ctx) }}
	p.relay = relay.New(relay.Options{Network: dev, MTU: 1420})
	p.drain(t.Context())
	if len(asked) != 1 || asked[0] != t.Context() {
		t.Errorf("flushed %d times, want once, within the drain's time", len(asked))
	}
	p.fence = datapath.NewFence()
	p.drain(t.Context())
	if len(asked) != 1 {
		t.Error("it is flushed although nothing may leave")
	}
	must(t, p.close())
}
