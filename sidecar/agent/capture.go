package agent

import (
	"cmp"
	"context"
	"net/http"
	"net/netip"
	"strconv"
	"time"

	"github.com/tenantwire/tenantwire/sidecar/capture"
	"github.com/tenantwire/tenantwire/sidecar/datapath"
	"github.com/tenantwire/tenantwire/sidecar/key"
	"github.com/tenantwire/tenantwire/sidecar/wire"
)

// serveCapture shows packets as they are inside the tunnel, until who asks goes away or what was asked for is there. Nothing is kept.
func (p *plane) serveCapture(w http.ResponseWriter, r *http.Request) error {
	var ask wire.Capture
	if err := asked(w, r, &ask); err != nil {
		return err
	}
	filter, err := capture.ParseFilter(ask.Filter)
	if err != nil {
		return err
	}
	seconds := cmp.Or(ask.Seconds, wire.MaxCaptureSeconds)
	ctx, done, err := p.debug.begin(r.Context(), captureWork, time.Duration(seconds)*time.Second)
	if err != nil {
		return err
	}
	defer done()
	device, err := p.tapper()
	if err != nil {
		return err
	}
	if err := filter.Resolve(p.addressesOf); err != nil {
		return err
	}
	p.log.Info("capture begins", "filter", ask.Filter, "snapLength", ask.SnapLength, "count", ask.Count, "seconds", seconds)
	p.tell("packets of the tunnel are captured through the pod's loopback; filter %q", ask.Filter)
	counts, why := p.capture(ctx, w, device, capture.NewTap(ask, filter))
	p.log.Info("capture ended", "packets", counts.Captured, "dropped", counts.Dropped, "why", why)
	return nil
}

// capture writes the answer, and says how it ended.
func (p *plane) capture(ctx context.Context, w http.ResponseWriter, device datapath.Tapper, tap *capture.Tap) (capture.Counts, string) {
	out := patient(w)
	h := w.Header()
	h.Set("Content-Type", "application/vnd.tcpdump.pcap")
	for _, trailer := range []string{wire.CapturedTrailer, wire.DroppedTrailer, wire.EndTrailer} {
		h.Add("Trailer", trailer)
	}
	device.SetTap(tap.Take)
	err := tap.Copy(ctx, out, out.ctl.Flush)
	device.SetTap(nil)
	counts, why := tap.Counts(), err.Error()
	if ctx.Err() != nil {
		why = p.whyEnded(ctx)
	}
	h.Set(wire.CapturedTrailer, strconv.FormatUint(counts.Captured, 10))
	h.Set(wire.DroppedTrailer, strconv.FormatUint(counts.Dropped, 10))
	h.Set(wire.EndTrailer, why)
	_ = out.extend()
	return counts, why
}

// tapper is the device, where it can show packets.
func (p *plane) tapper() (datapath.Tapper, error) {
	if up, why := p.up(); !up {
		return nil, &refusal{http.StatusServiceUnavailable, "the data path is not up: " + why}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	t, ok := p.device.(datapath.Tapper)
	if !ok {
		return nil, &refusal{http.StatusNotImplemented, "packets of the datapath " + string(p.device.Kind()) +
			" do not pass through the sidecar: capture on the node, with tcpdump in the pod's network namespace, or have the tunnel use TUN or Netstack"}
	}
	return t, nil
}

// addressesOf are the inner addresses that a peer may have.
func (p *plane) addressesOf(k key.Public) ([]netip.Prefix, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	peer, ok := p.has.peers[k]
	return peer.AllowedIPs, ok
}
