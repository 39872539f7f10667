package agent

import (
	"cmp"
	"encoding/json"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"github.com/tenantwire/tenantwire/sidecar/wire"
)

// relayedLoopback is where peers get to when a Service leads to the health port: they see the metrics, as everybody does, and not the
// device, which is for 127.0.0.1 alone.
var relayedLoopback = netip.AddrFrom4([4]byte{127, 0, 0, 2})

// inboundTo is where in the pod an inbound port leads.
func (o *Options) inboundTo(p wire.Port) netip.AddrPort {
	if _, health, _ := net.SplitHostPort(o.HealthAddr); p.Protocol == wire.TCP && health == strconv.Itoa(int(p.Port)) {
		return netip.AddrPortFrom(relayedLoopback, p.Port)
	}
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), p.Port)
}

// serveDevice shows the device to the pod's own loopback, and so to those who may forward a port of the pod: who talks to whom from
// where is not for everybody who reaches the pod's address. The kernel lets nothing with a loopback address into a pod.
func (p *plane) serveDevice(w http.ResponseWriter, r *http.Request) {
	local, _ := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	if !isOwnLoopback(local) {
		http.Error(w, "the device is shown on 127.0.0.1 alone: forward a port of the pod, as kubectl tenantwire wg does", http.StatusForbidden)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(p.show(time.Now())); err != nil {
		p.log.Debug("the device could not be shown", "error", err.Error())
	}
}

func isOwnLoopback(a net.Addr) bool {
	tcp, ok := a.(*net.TCPAddr)
	if !ok {
		return false
	}
	ip := tcp.AddrPort().Addr().Unmap()
	return ip == netip.AddrFrom4([4]byte{127, 0, 0, 1}) || ip == netip.IPv6Loopback()
}

// show is the device as it is now. While there is none, or its peers cannot be read, it has no peers.
func (p *plane) show(now time.Time) wire.Device {
	d := wire.Device{Interface: interfaceName, Datapath: p.chosen.kind, PublicKey: p.private.Public(), ListenPort: p.port(), Time: now.UTC()}
	d.Up, d.Why = p.up()
	peers, _, _ := p.stats()
	p.mu.Lock()
	has := p.has.peers // replaced when it changes, never written to
	p.mu.Unlock()
	for _, s := range peers {
		configured := has[s.PublicKey]
		d.Peers = append(d.Peers, wire.DevicePeer{PublicKey: s.PublicKey, Preshared: !configured.PresharedKey.IsZero(), Endpoint: s.Endpoint,
			AllowedIPs: s.AllowedIPs, LastHandshake: s.LastHandshake.UTC(), RxBytes: s.RxBytes, TxBytes: s.TxBytes,
			PathMTU: s.PathMTU, MTUState: s.MTUState,
			KeepaliveSeconds: uint16(configured.Keepalive / time.Second)}) //nolint:gosec // a datapath.Peer has at most 65535 s
	}
	slices.SortFunc(d.Peers, func(a, b wire.DevicePeer) int {
		return cmp.Or(b.LastHandshake.Compare(a.LastHandshake), slices.Compare(a.PublicKey[:], b.PublicKey[:]))
	})
	return d
}
