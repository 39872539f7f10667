package agent

import (
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
	"github.com/tenantwire/tenantwire/sidecar/key"
	"github.com/tenantwire/tenantwire/sidecar/wire"
)

// presharedKeys are the files of a folder that hold one key each, whose names the coordinator tells. A peer whose key cannot be had is
// kept out: without it, it would be let in for less than it was promised.
type presharedKeys string

// find reads a key. The folder is a volume that changes while it is read.
func (dir presharedKeys) find(name string) (key.Preshared, wire.KeptOut) {
	if dir == "" || !wire.IsPresharedName(name) {
		return key.Preshared{}, wire.NoPresharedKey
	}
	b, err := os.ReadFile(filepath.Join(string(dir), name))
	if errors.Is(err, fs.ErrNotExist) {
		return key.Preshared{}, wire.NoPresharedKey
	}
	k, parse := key.ParsePreshared(string(b))
	if err != nil || parse != nil || k.IsZero() {
		return key.Preshared{}, wire.BadPresharedKey
	}
	return k, ""
}

// keyed are the peers with their preshared keys, and those that are kept out for want of theirs.
func (dir presharedKeys) keyed(peers map[key.Public]datapath.Peer, names map[key.Public]string) (map[key.Public]datapath.Peer, map[key.Public]wire.KeptOut) {
	if len(names) == 0 {
		return peers, nil
	}
	peers, out := maps.Clone(peers), map[key.Public]wire.KeptOut{}
	for k, name := range names {
		peer, ok := peers[k]
		if !ok {
			continue
		}
		found, why := dir.find(name)
		if why != "" {
			out[k] = why
			delete(peers, k)
			continue
		}
		peer.PresharedKey = found
		peers[k] = peer
	}
	return peers, out
}

// rekey looks whether a preshared key has changed, and applies what has.
func (p *plane) rekey() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.standby || p.device == nil || len(p.wanted.preshared) == 0 {
		return nil
	}
	peers, out := p.preshared.keyed(p.wanted.peers, p.wanted.preshared)
	same := maps.Equal(out, p.keptOut)
	for k := range p.wanted.preshared {
		same = same && peers[k].PresharedKey.Equal(p.has.peers[k].PresharedKey)
	}
	if same {
		return nil
	}
	p.log.Info("preshared keys have changed", "without", len(out))
	return p.applyLocked(p.wanted)
}
