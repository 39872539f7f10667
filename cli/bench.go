package cli

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/tenantwire/tenantwire/sidecar/wire"
)

// maxBenchLine bounds a line of what a sidecar says while it measures.
const maxBenchLine = 64 << 10

// benchFlags are the raw words of bench.
type benchFlags struct {
	streams  int
	duration time.Duration
	bytes    string
	form     string
}

// benchReport is what bench prints.
type benchReport struct {
	From         string            `json:"from"`
	To           string            `json:"to"`
	FromDatapath string            `json:"fromDatapath"`
	ToDatapath   string            `json:"toDatapath"`
	Phases       []wire.BenchPhase `json:"phases"`
}

func (cs *commands) bench() *cobra.Command {
	var f benchFlags
	c := &cobra.Command{
		Use:   "bench POD POD",
		Short: "Measure the tunnel between two pods",
		Long: `Measures what a tunnel carries between two of its pods, members or a gateway, and how long a round trip takes: alone, and beside traffic each
way, with one stream and with several. "up" is from the first pod to the second. It takes what it can of the network and of the sidecars'
CPU while it runs, which the pods' own traffic feels.

The sidecars do it, with no image and no program besides: the second pod's opens a port inside the tunnel that answers the first pod alone, for as
long as this runs. What is counted is the payload of TCP where it arrives; it passes the second pod's relay, as an application's does, and
not the first one's. The tunnel has to allow it, with spec.debug.bench: Allowed. Both are asked through forwarded ports, which takes the
right to create pods/portforward in the namespace.`,
		Example: `  kubectl tenantwire bench client-7d9f web-5d9c7b6f4-x2x7k
  kubectl tenantwire -n acme bench web-1 web-2 --streams 8 --duration 5s -o json`,
		Args: exactly("POD", "the second POD"),
		RunE: func(c *cobra.Command, args []string) error {
			ask, err := f.parse()
			if err != nil {
				return usageError{err}
			}
			if args[0] == args[1] {
				return usagef("%s is one pod: name two", args[0])
			}
			return cs.benchPods(c.Context(), args[0], args[1], ask, f.form)
		},
	}
	p := c.Flags()
	p.IntVar(&f.streams, "streams", 4, "streams of the phases that have several, 1 to 16; with 1 there are none of these")
	p.DurationVar(&f.duration, "duration", 2*time.Second, "of each of the phases, in whole seconds from 1s to 10s")
	p.StringVar(&f.bytes, "max-bytes", "16G", "a phase ends before if it has carried so much, at most 64Gi")
	p.StringVarP(&f.form, "output", "o", listTable, "json or yaml; left out, a table")
	c.ValidArgsFunction = func(c *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 1 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return cs.memberNames(c.Context()), cobra.ShellCompDirectiveNoFileComp
	}
	cs.complete(c, "output", func(context.Context) []string { return []string{listJSON, listYAML} })
	return c
}

func (f *benchFlags) parse() (wire.BenchRun, error) {
	most, err := resource.ParseQuantity(f.bytes)
	switch {
	case f.streams < 1 || f.streams > wire.MaxBenchStreams:
		return wire.BenchRun{}, fmt.Errorf("--streams: %d is not 1 to %d", f.streams, wire.MaxBenchStreams)
	case f.duration < time.Second || f.duration > wire.MaxBenchPhaseSeconds*time.Second || f.duration%time.Second != 0:
		return wire.BenchRun{}, fmt.Errorf("--duration: %s is not a number of seconds from 1s to %ds", f.duration, wire.MaxBenchPhaseSeconds)
	case err != nil || most.Value() < 1 || most.Value() > wire.MaxBenchBytes:
		return wire.BenchRun{}, fmt.Errorf("--max-bytes: %q is not a number of bytes up to 64Gi, for example 500M", f.bytes)
	case !slices.Contains([]string{listTable, listJSON, listYAML}, f.form):
		return wire.BenchRun{}, fmt.Errorf("--output: %q is not json or yaml", f.form)
	}
	return wire.BenchRun{Streams: f.streams, Seconds: int(f.duration / time.Second), MaxBytes: most.Value()}, nil
}

func (cs *commands) benchPods(ctx context.Context, from, to string, ask wire.BenchRun, form string) error {
	n, err := cs.connect()
	if err != nil {
		return err
	}
	begin, cancel := context.WithTimeout(ctx, 2*askPatience)
	defer cancel()
	a, err := n.openPod(begin, from)
	if err != nil {
		return err
	}
	defer a.close()
	b, err := n.openPod(begin, to)
	if err != nil {
		return err
	}
	defer b.close()
	r := &benchReport{From: from, To: to}
	if err := cs.measure(ctx, a, b, ask, r); err != nil {
		return err
	}
	return r.print(cs.Out, form)
}

// measure has b open a port for a, and a measure the way there. Both end when this does.
func (cs *commands) measure(ctx context.Context, a, b *pod, ask wire.BenchRun, r *benchReport) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var self wire.BenchSelf
	if err := a.first(ctx, wire.BenchSelfPath, wire.BenchAsk{}, &self); err != nil {
		return err
	}
	var opened wire.BenchOpened
	// Five phases, of which each may take a while to end, and to begin with the way to both pods.
	seconds := min(wire.MaxBenchDoorSeconds, 5*(ask.Seconds+10)+20)
	if err := b.first(ctx, wire.BenchDoorPath, wire.BenchDoor{From: self.Addresses, Seconds: seconds}, &opened); err != nil {
		return err
	}
	r.FromDatapath, r.ToDatapath = self.Datapath, oneLine(opened.Datapath)
	ask.To, ask.Token = opened.At, opened.Token
	answer, err := a.post(ctx, wire.BenchRunPath, ask)
	if err != nil {
		return err
	}
	defer answer.close()
	r.Phases, err = cs.follow(answer.Body)
	if ctx.Err() != nil {
		return fmt.Errorf("measure: %w", ctx.Err())
	}
	return err
}

// first asks for something and reads the first line of the answer, which stays open until ctx ends.
func (p *pod) first(ctx context.Context, path string, in any, out interface{ Validate() error }) error {
	a, err := p.post(ctx, path, in)
	if err != nil {
		return err
	}
	context.AfterFunc(ctx, func() { time.AfterFunc(farewell, a.close) })
	line, err := bufio.NewReader(io.LimitReader(a.Body, maxBenchLine)).ReadBytes('\n')
	if err == nil {
		err = json.Unmarshal(line, out)
	}
	if err == nil {
		err = out.Validate()
	}
	if err != nil {
		return fmt.Errorf("read what the sidecar of pod %s says: %w", p.name, err)
	}
	return nil
}

// follow says how far a measurement is, and returns what was measured.
func (cs *commands) follow(body io.Reader) (phases []wire.BenchPhase, err error) {
	lines := bufio.NewScanner(body)
	lines.Buffer(nil, maxBenchLine)
	for lines.Scan() && len(phases) < 64 {
		var e wire.BenchEvent
		err := json.Unmarshal(lines.Bytes(), &e)
		if err == nil {
			err = e.Validate()
		}
		switch {
		case err != nil:
			return nil, fmt.Errorf("read what the sidecar says: %w", err)
		case e.Error != "":
			return nil, fmt.Errorf("measure: %.500s", oneLine(e.Error))
		case e.Done:
			return phases, nil
		case e.Phase != nil:
			phases = append(phases, *e.Phase)
		case e.Begins != "":
			cs.say("measuring: %s", oneLine(e.Begins))
		}
	}
	return nil, errors.New("measure: it was cut off: a sidecar or the way to it is gone")
}

func (r *benchReport) print(w io.Writer, form string) error {
	if form != listTable {
		return printValue(w, form, r)
	}
	t := tabwriter.NewWriter(w, 0, 8, 3, ' ', 0)
	fmt.Fprintln(t, "PHASE\tSTREAMS\tTHROUGHPUT\tROUND TRIP P50\tP99")
	for _, p := range r.Phases {
		streams, rate := "-", "-"
		if p.Streams > 0 {
			streams, rate = fmt.Sprint(p.Streams), bitRate(p.BitsPerSecond)
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\n", p.Name, streams, rate, millis(p.P50Micros), millis(p.P99Micros))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(w, "\nfrom %s (%s) to %s (%s)\n", r.From, r.FromDatapath, r.To, r.ToDatapath)
	return err
}

// bitRate is a number of bits per second.
func bitRate(n float64) string {
	switch {
	case n >= 1e9:
		return fmt.Sprintf("%.2f Gbit/s", n/1e9)
	case n >= 1e6:
		return fmt.Sprintf("%.1f Mbit/s", n/1e6)
	}
	return fmt.Sprintf("%.1f kbit/s", n/1e3)
}

// millis are microseconds as milliseconds; none is "-".
func millis(micros float64) string {
	if micros == 0 {
		return "-"
	}
	return fmt.Sprintf("%.2f ms", micros/1e3)
}
