package agent

import (
	"context"
	"fmt"
	"maps"
	"net"
	"net/netip"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
	"github.com/tenantwire/tenantwire/sidecar/key"
)

func lookup(ctx context.Context, host string) ([]netip.Addr, error) {
	return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
}

// located are the peers with the endpoints that their names were found to be so far; the others are moved when they are found.
func (p *plane) located(d desired) map[key.Public]datapath.Peer {
	p.endpoints.Set(d.names)
	if len(d.names) == 0 {
		return d.peers
	}
	peers := maps.Clone(d.peers)
	for k := range d.names {
		if peer, ok := peers[k]; ok {
			peer.Endpoint = p.endpoints.At(k)
			peers[k] = peer
		}
	}
	return peers
}

// move gives a peer whose endpoint is still this name the address that was found for it.
func (p *plane) move(k key.Public, name string, to netip.AddrPort) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	peer, ok := p.has.peers[k]
	if !ok || p.has.names[k] != name {
		return nil
	}
	first := !peer.Endpoint.IsValid()
	peer.Endpoint = to
	if err := p.device.UpdatePeers([]datapath.Peer{peer}, nil); err != nil {
		return fmt.Errorf("move peer: %w", err)
	}
	if first && p.tookOver {
		if err := p.greet(peer); err != nil {
			return err
		}
	}
	p.has.peers = maps.Clone(p.has.peers) // others read the old one
	p.has.peers[k] = peer
	return nil
}

// livePeers are nil while there is no device.
func (p *plane) livePeers() []datapath.PeerStats {
	peers, _, _ := p.stats()
	return peers
}
