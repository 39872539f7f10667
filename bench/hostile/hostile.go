// Package hostile measures what a peer of a gateway gets of it while another peer floods: datagrams at full rate, handshakes,
// connections.
//
//	victim ──┐
//	         ├── gateway ── member, with a relay
//	hostile ─┘
//
// Each is a process of its own with one CPU, but the victim, which measures.
//
// The victim sends a stream of a given rate and, apart from that, connects, asks and closes, over and over. Each state is measured in
// each round, in turn: alone, beside a flood through another gateway (what it costs the machine to send it), beside a flood through the
// victim's gateway without limits, and with them. What is reported is the median over the rounds, and its ratio to alone.
package hostile

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"text/tabwriter"
	"time"

	"github.com/tenantwire/tenantwire/bench"
	"github.com/tenantwire/tenantwire/sidecar/datapath"
	"github.com/tenantwire/tenantwire/sidecar/device"
	"github.com/tenantwire/tenantwire/sidecar/key"
)

// Options say what is measured.
type Options struct {
	Rounds    int
	Time      time.Duration // of each measurement
	Stream    int64         // bits per second that the victim has to send
	Bandwidth int64         // bits per second of each peer, where there are limits
	Floods    []string
}

const mtu = 1420

// pause is for what the last flood left behind.
const pause = 500 * time.Millisecond

var (
	member  = netip.MustParseAddr("10.9.0.1")
	decoyed = netip.MustParseAddr("10.9.1.1") // behind the other gateway
	victim  = netip.MustParseAddr("10.9.0.2")
	hostile = netip.MustParseAddr("10.9.0.3")
)

func host(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

// child is a process of ours.
type child struct {
	hello
	in  *json.Encoder
	out *bufio.Scanner
	cmd *exec.Cmd
	end io.Closer
}

func start(ctx context.Context, role string, inner netip.Addr) (*child, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	c := &child{cmd: exec.CommandContext(ctx, self, "-role", role)}
	c.cmd.Stderr = os.Stderr
	in, err1 := c.cmd.StdinPipe()
	out, err2 := c.cmd.StdoutPipe()
	if err := errors.Join(err1, err2, c.cmd.Start()); err != nil {
		return nil, err
	}
	c.in, c.out, c.end = json.NewEncoder(in), bufio.NewScanner(out), in
	return c, c.ask(command{Address: host(inner)}, &c.hello)
}

// ask sends a command and waits for its answer.
func (c *child) ask(cmd command, answer any) error {
	if err := c.in.Encode(cmd); err != nil {
		return err
	}
	if !c.out.Scan() {
		return fmt.Errorf("a process has ended: %w", errors.Join(c.out.Err(), io.ErrUnexpectedEOF))
	}
	return json.Unmarshal(c.out.Bytes(), answer)
}

func (c *child) at() netip.AddrPort {
	return netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), c.Port)
}

func (c *child) peer(allowed ...netip.Addr) peer {
	p := peer{PublicKey: c.PublicKey, Endpoint: c.at()}
	for _, a := range allowed {
		p.AllowedIPs = append(p.AllowedIPs, host(a))
	}
	return p
}

func (c *child) close() {
	_ = c.end.Close()
	_ = c.cmd.Wait()
}

// lab is everything.
type lab struct {
	o                             Options
	gateway, other, flood, member *child
	victim                        *device.Device
	connections                   int // that the member allows a peer now
}

// open makes the victim's device, which knows the gateway.
func (l *lab) open() (err error) {
	private := key.NewPrivate()
	if l.victim, err = device.Open(device.Options{PrivateKey: private,
		Interface: datapath.Interface{Addresses: []netip.Prefix{host(victim)}, MTU: mtu}}); err != nil {
		return err
	}
	known := peer{PublicKey: private.Public(), AllowedIPs: []netip.Prefix{host(victim)}, Outside: true,
		Endpoint: netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), l.victim.ListenPort())}
	return errors.Join(l.victim.UpdatePeers([]datapath.Peer{l.gateway.peer(member).datapath()}, nil),
		l.gateway.ask(command{Peers: []peer{known}}, &counts{}))
}

func newLab(ctx context.Context, o Options) (*lab, error) {
	l := &lab{o: o}
	var err error
	for _, c := range []struct {
		to    **child
		role  string
		inner string
	}{{&l.gateway, roleHub, "10.9.0.254"}, {&l.other, roleHub, "10.9.1.254"}, {&l.flood, roleFlood, hostile.String()}, {&l.member, roleMember, member.String()}} {
		if *c.to, err = start(ctx, c.role, netip.MustParseAddr(c.inner)); err != nil {
			return l, err
		}
	}
	attacker := l.flood.peer(hostile)
	attacker.Outside = true
	return l, errors.Join(l.gateway.ask(command{Peers: []peer{attacker, l.member.peer(member)}}, &counts{}),
		l.other.ask(command{Peers: []peer{attacker}}, &counts{}),
		l.member.ask(command{Peers: []peer{l.gateway.peer(victim, hostile)}}, &counts{}),
		l.flood.ask(command{Peers: []peer{l.gateway.peer(member), l.other.peer(decoyed)}}, &counts{}), l.open())
}

func (l *lab) close() {
	for _, c := range []*child{l.flood, l.gateway, l.other, l.member} {
		if c != nil && c.end != nil {
			c.close()
		}
	}
	if l.victim != nil {
		_ = l.victim.Close()
	}
}

// state is one to measure in.
type state struct {
	flood  string
	beside string // other, open, limits
}

func (l *lab) states() []state {
	out := []state{{"", "alone"}, {"", "limits"}}
	for _, flood := range l.o.Floods {
		for _, beside := range []string{"other", "open", "limits"} {
			if flood != floodConnections && flood != floodBulk || beside != "other" { // nobody listens there
				out = append(out, state{flood, beside})
			}
		}
	}
	return out
}

// enter brings the state about.
func (l *lab) enter(s state) error {
	limits, connections := datapath.Limits{}, 0
	if s.beside == "limits" {
		limits, connections = datapath.Limits{Bandwidth: l.o.Bandwidth, Handshakes: 60}, 64
	}
	l.connections = connections
	through, to := l.gateway, member
	if s.beside == "other" {
		through, to = l.other, decoyed
	}
	if err := l.flood.ask(command{}, &counts{}); err != nil {
		return err
	}
	time.Sleep(pause)
	return errors.Join(l.gateway.ask(command{Limits: &limits}, &counts{}), l.other.ask(command{Limits: &datapath.Limits{Bandwidth: 64_000}}, &counts{}),
		l.member.ask(command{Connections: connections}, &counts{}),
		l.flood.ask(command{Flood: s.flood, Through: through.PublicKey, At: through.at(), To: netip.AddrPortFrom(to, echoPort)}, &counts{}))
}

// Run measures and writes a table.
func Run(ctx context.Context, o Options, out io.Writer) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	l, err := newLab(ctx, o)
	defer l.close()
	if err != nil {
		return err
	}
	got := map[state][]figures{}
	for range o.Rounds {
		for _, s := range l.states() {
			if err := l.enter(s); err != nil {
				return fmt.Errorf("%s, %s: %w", s.flood, s.beside, err)
			}
			time.Sleep(o.Time / 3)
			f, err := l.measured(ctx)
			if err != nil {
				return fmt.Errorf("%s, %s: %w", s.flood, s.beside, err)
			}
			got[s] = append(got[s], f)
		}
	}
	return errors.Join(l.enter(state{}), l.report(out, got))
}

// asGateway and asMember are what these have counted.
func (l *lab) asGateway() (c counts, err error) { err = l.gateway.ask(command{}, &c); return c, err }
func (l *lab) asMember() (c counts, err error) {
	err = l.member.ask(command{Connections: l.connections}, &c)
	return c, err
}

// measured is measure with what was dropped meanwhile.
func (l *lab) measured(ctx context.Context) (figures, error) {
	gateway, err1 := l.asGateway()
	member, err2 := l.asMember()
	if err := errors.Join(err1, err2); err != nil {
		return figures{}, err
	}
	f, err := l.measure(ctx)
	after, err1 := l.asGateway()
	behind, err2 := l.asMember()
	f.dropped, f.lost = since(gateway.Drops, after.Drops), since(member.Drops, behind.Drops)
	return f, errors.Join(err, err1, err2)
}

func since(before, after map[string]uint64) map[string]uint64 {
	out := map[string]uint64{}
	for why, n := range after {
		if n > before[why] {
			out[why] = n - before[why]
		}
	}
	return out
}

func (l *lab) report(out io.Writer, got map[state][]figures) error {
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "flood\tgateway\tstream Mbit/s\t× alone\trequests p50 ms\tp99 ms\tfailed %\tothers Mbit/s\tdropped by the gateway, last round\tby the member")
	alone := bench.Median(pick(got[state{"", "alone"}], func(f figures) float64 { return f.mbits }))
	for _, s := range l.states() {
		mbits := bench.Median(pick(got[s], func(f figures) float64 { return f.mbits }))
		fmt.Fprintf(w, "%s\t%s\t%.1f\t%.2f\t%.2f\t%.1f\t%.1f\t%.0f\t%v\t%v\n", s.flood, s.beside, mbits, mbits/alone,
			bench.Median(pick(got[s], func(f figures) float64 { return bench.Percentile(f.millis, 50) })),
			bench.Median(pick(got[s], func(f figures) float64 { return bench.Percentile(f.millis, 99) })),
			bench.Median(pick(got[s], func(f figures) float64 { return f.failed })),
			bench.Median(pick(got[s], func(f figures) float64 { return f.bulk })), got[s][len(got[s])-1].dropped, got[s][len(got[s])-1].lost)
	}
	return w.Flush()
}

func pick(all []figures, of func(figures) float64) (out []float64) {
	for _, f := range all {
		out = append(out, of(f))
	}
	return out
}
