package contender

import (
	"context"
	"encoding/hex"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"time"

	"github.com/tenantwire/tenantwire/bench/lab"
	"github.com/tenantwire/tenantwire/bench/load"
	"github.com/tenantwire/tenantwire/bench/noise"
	"github.com/tenantwire/tenantwire/sidecar/key"
)

// checkDatapath asks the sidecar whether its static file knows a datapath and has it here.
func checkDatapath(s *Setup, datapath string) error {
	e := end{setup: s, near: true, way: localPort, self: identity{1, key.NewPrivate()}, far: netip.AddrPortFrom(identity{n: 2}.inner(), Port),
		peers: []peer{{public: key.NewPrivate().Public(), allowed: []netip.Prefix{netip.PrefixFrom(identity{n: 2}.inner(), 32)}}}}
	keyFile, err := e.file("key", e.self.private.Reveal()+"\n", 0)
	if err != nil {
		return err
	}
	text, err := jsonText(e.sidecarConfig(datapath, keyFile))
	if err != nil {
		return err
	}
	path, err := e.file("sidecar.yaml", text, 0)
	if err != nil {
		return err
	}
	if out, err := exec.Command(s.Programs.Sidecar, "--config", path, "--check").CombinedOutput(); err != nil {
		said := strings.ReplaceAll(strings.TrimSpace(string(out)), path, "FILE")
		return fmt.Errorf("the sidecar's static file does not take datapath %s: %s", datapath, said)
	}
	return nil
}

// Crowd is a lone device with many peers, and what it did with their handshakes.
type Crowd struct {
	Memory  int64 // bytes, before the first handshake
	Answers noise.Answers
}

// RunCrowd starts a contender's near end with n peers, none of which it knows an endpoint of, and has them all shake hands.
func RunCrowd(ctx context.Context, s *Setup, c Contender, n, rounds int) (Crowd, error) {
	if c.near.start == nil || c.near.finds || c.only != nil {
		return Crowd{}, fmt.Errorf("%w: it has no peers of its own", ErrNotApplicable)
	}
	var p Pair
	var out Crowd
	err := func() error {
		if err := p.hosts(s); err != nil {
			return err
		}
		peers, err := p.near.crowd(n)
		if err != nil {
			return err
		}
		r, err := c.near.start(p.near)
		if err != nil {
			return err
		}
		conn, err := p.dialNear()
		if err != nil {
			return err
		}
		defer conn.Close()
		if err := lab.Until("first handshake", patience, func() error { return one(ctx, r.process, conn, peers[0]) }); err != nil {
			return err
		}
		if err := settle(ctx); err != nil {
			return err
		}
		cost, err := load.ReadCost(r.process.PID())
		if err != nil {
			return err
		}
		out.Memory = cost.Now
		out.Answers, err = noise.Flood(ctx, conn, peers[1:], rounds)
		return err
	}()
	if more := p.Close(); err == nil {
		err = more
	}
	return out, err
}

func one(ctx context.Context, process *lab.Process, c net.Conn, p *noise.Initiator) error {
	if err := process.Running(); err != nil {
		return err
	}
	a, err := noise.Flood(ctx, c, []*noise.Initiator{p}, 1)
	if err == nil && a.Responses == 0 {
		err = fmt.Errorf("no answer: %+v", a)
	}
	return err
}

// crowd gives an end n peers more than it has and answers who they are. They live in 10.100.0.0/16.
func (e *end) crowd(n int) (out []*noise.Initiator, err error) {
	public := e.self.private.Public()
	for i := range n {
		k := key.NewPrivate()
		raw, err := hex.DecodeString(k.Hex())
		if err != nil {
			return nil, err
		}
		initiator, err := noise.NewInitiator(raw, public[:])
		if err != nil {
			return nil, err
		}
		out = append(out, initiator)
		address := netip.AddrFrom4([4]byte{10, 100, byte(i >> 8), byte(i)})
		e.peers = append(e.peers, peer{public: k.Public(), allowed: []netip.Prefix{netip.PrefixFrom(address, 32)}})
	}
	return out, nil
}

func (p *Pair) dialNear() (c net.Conn, err error) {
	p.far.host.Do(func() { c, err = net.Dial("udp", netip.AddrPortFrom(p.near.self.outer(), outerPort).String()) })
	return c, err
}

// settle lets a process become idle before its memory is read: started, and done with what came last.
func settle(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(3 * time.Second):
		return nil
	}
}

// Idle is the memory of both ends while nothing happens.
func (p *Pair) Idle(ctx context.Context) ([]load.Cost, error) {
	if err := settle(ctx); err != nil {
		return nil, err
	}
	var out []load.Cost
	for _, pid := range p.PIDs() {
		c, err := load.ReadCost(pid)
		if err != nil {
			return nil, err
		}
		out = append(out, c)
	}
	return out, nil
}
