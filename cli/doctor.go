package cli

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/client-go/rest"

	"github.com/tenantwire/tenantwire/cli/doctor"
	"github.com/tenantwire/tenantwire/injector"
	"github.com/tenantwire/tenantwire/sidecar/wire"
)

// examination is what doctor is to look at.
type examination struct {
	from, to   string // both or none
	form       string // listTable, listJSON or listYAML
	system     string // the operator's namespace
	everywhere bool
	live       bool
}

func (cs *commands) doctor() *cobra.Command {
	e := examination{}
	c := &cobra.Command{
		Use:   "doctor",
		Short: "Find out what is wrong, and what to do about it",
		Long: `Goes through all that can be wrong with the namespace's tunnels and with the installation, and says of each fault what it is, by what
one sees it, and what to do.

With --from and --to it also walks the way from a pod to a name: to an exposed Service, an egress host, a pod, or an address, each with a port or
without. The pod's sidecar sends along it what the application could send itself: echo requests of several sizes, and a TCP connection that is closed
at once. The far end's sidecar says what of that arrived. --from may also name a TunnelPeer, of which the members are asked whether they would let it in.

It does that with your rights. What you may not read is no fault: the end of the output says what was not looked at, and which right that would
take. Pods are asked through forwarded ports, which takes the right to create pods/portforward; with --live=false none is.

docs/troubleshooting.md has a list of all checks. The exit code is 0 if nothing was found but notes, 2 if something was, and 1 if nothing could be found
out, or if the command line is wrong.`,
		Example: `  kubectl tenantwire -n acme doctor
  kubectl tenantwire -n acme doctor --from client-7d9c5 --to web:80
  kubectl tenantwire -n acme doctor --from laptop --to web
  kubectl tenantwire doctor -A -o json`,
		Annotations: map[string]string{usageFails: ""},
		Args:        exactly(),
		RunE: func(c *cobra.Command, _ []string) error {
			if err := e.check(); err != nil {
				return err
			}
			return cs.examine(c.Context(), e)
		},
	}
	c.Flags().StringVar(&e.from, "from", "", "pod, or TunnelPeer, that does not reach something; with --to")
	c.Flags().StringVar(&e.to, "to", "", "NAME[:PORT] that it does not reach: a Service, an egress host, a pod, a TunnelPeer or an address; with --from")
	c.Flags().StringVarP(&e.form, "output", "o", listTable, "json or yaml, for programs")
	c.Flags().BoolVarP(&e.everywhere, "all-namespaces", "A", false, "tunnels of all namespaces")
	c.Flags().BoolVar(&e.live, "live", true, "ask the pods")
	c.Flags().StringVar(&e.system, "operator-namespace", "tenantwire-system", "where the operator runs")
	cs.complete(c, "output", func(context.Context) []string { return []string{listJSON, listYAML} })
	cs.complete(c, "from", func(ctx context.Context) []string { return slices.Concat(cs.memberNames(ctx), cs.peerNames(ctx)) })
	cs.complete(c, "to", cs.carriedNames)
	return c
}

func (e *examination) check() error {
	switch {
	case !slices.Contains([]string{listTable, listJSON, listYAML}, e.form):
		return usagef("--output: %q is not json or yaml", e.form)
	case (e.from == "") != (e.to == ""):
		return usagef("--from and --to: a way has two ends; say both, for example --from client --to web:80")
	case e.from != "" && e.everywhere:
		return usagef("--all-namespaces: a way is inside one namespace; say which with -n")
	case e.from != "" && !e.live:
		return usagef("--live=false: a way is looked at by asking its pods; leave out --live, or --from and --to")
	}
	return nil
}

func (cs *commands) examine(ctx context.Context, e examination) error {
	n, err := cs.connect()
	if err != nil {
		return err
	}
	if e.everywhere {
		n.name = ""
	}
	c, err := doctor.NewClient(n.rest)
	if err != nil {
		return fmt.Errorf("find the cluster: %w", err)
	}
	progress := func(what string) { cs.say("%s ...", what) }
	facts, err := doctor.Gather(ctx, c, n.name, e.system, progress)
	if err != nil {
		return fmt.Errorf("find out what is wrong: %w", err)
	}
	if len(facts.Tunnels) == 0 {
		cs.say("no tunnels found%s", inNamespace(n.name))
	}
	facts.TellTime(serverTime(ctx, n.rest))
	pods := &podAsker{n: n, conns: map[doctor.PodID]*pod{}}
	defer pods.close()
	if e.live {
		facts.AskPods(ctx, pods, progress)
	} else {
		facts.DoNotAskPods()
	}
	var path *doctor.Path
	if e.from != "" {
		if path, err = facts.Walk(ctx, pods, e.from, e.to, progress); err != nil {
			return err
		}
	}
	if ctx.Err() != nil {
		return errors.New("interrupted")
	}
	r := doctor.Examine(facts, path)
	if e.form == listTable {
		err = r.Print(cs.Out)
	} else {
		err = printValue(cs.Out, e.form, r)
	}
	switch {
	case err != nil:
		return err
	case !r.Healthy:
		return answer{ExitUnhealthy}
	case facts.Blind():
		return errors.New("find out what is wrong: you may not list tunnels here; name a namespace of yours with -n")
	}
	return nil
}

// serverTime is the API server's, and what is ours in the middle of asking; zero: it does not say.
func serverTime(ctx context.Context, cfg *rest.Config) (server, ours time.Time) {
	ctx, cancel := context.WithTimeout(ctx, askPatience)
	defer cancel()
	h, err := rest.HTTPClientFor(cfg)
	if err != nil {
		return server, ours
	}
	u, _, err := rest.DefaultServerUrlFor(cfg)
	if err != nil {
		return server, ours
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, u.JoinPath("version").String(), http.NoBody)
	if err != nil {
		return server, ours
	}
	begun := time.Now()
	res, err := h.Do(r)
	if err != nil {
		return server, ours
	}
	_ = res.Body.Close()
	if server, err = http.ParseTime(res.Header.Get("Date")); err != nil {
		return time.Time{}, ours
	}
	return server, begun.Add(time.Since(begun) / 2)
}

// podAsker asks pods' sidecars, over connections that it keeps.
type podAsker struct {
	n     *namespace
	mu    sync.Mutex
	conns map[doctor.PodID]*pod
}

var _ doctor.Asker = (*podAsker)(nil)

func (a *podAsker) close() {
	for _, c := range a.conns {
		c.close()
	}
}

func (a *podAsker) connect(ctx context.Context, id doctor.PodID) (*pod, error) {
	a.mu.Lock()
	c := a.conns[id]
	a.mu.Unlock()
	if c != nil {
		return c, nil
	}
	of := *a.n
	of.name = id.Namespace
	c, err := of.openPod(ctx, id.Name)
	if err != nil {
		return nil, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.conns[id] = c
	return c, nil
}

// Device asks for a pod's device.
func (a *podAsker) Device(ctx context.Context, id doctor.PodID) (*wire.Device, error) {
	ctx, cancel := context.WithTimeout(ctx, askPatience)
	defer cancel()
	c, err := a.connect(ctx, id)
	if err != nil {
		return nil, noRight(err)
	}
	return c.device(ctx)
}

// Diagnose asks for a diagnosis; query is that of wire.DiagnosePath.
func (a *podAsker) Diagnose(ctx context.Context, id doctor.PodID, query url.Values) (*wire.Diagnosis, error) {
	ctx, cancel := context.WithTimeout(ctx, wire.DiagnosisTime+askPatience)
	defer cancel()
	c, err := a.connect(ctx, id)
	if err != nil {
		return nil, noRight(err)
	}
	status, b, err := c.get(ctx, injector.HealthPort, wire.DiagnosePath+"?"+query.Encode(), wire.MaxDiagnosis)
	switch {
	case err != nil:
		return nil, fmt.Errorf("ask the sidecar of pod %s: %w", id.Name, err)
	case status == http.StatusNotFound:
		return nil, fmt.Errorf("ask the sidecar of pod %s: it is of a version that makes no diagnosis; restart the pod to have the present one", id.Name)
	case status != http.StatusOK:
		return nil, fmt.Errorf("ask the sidecar of pod %s: %s", id.Name, oneLine(string(b[:min(len(b), 200)])))
	}
	return said[wire.Diagnosis](b, id.Name)
}

func noRight(err error) error {
	if errors.Is(err, errNoRight) {
		return fmt.Errorf("%w: %w", doctor.ErrNoRight, err)
	}
	return err
}

// carriedNames are the names of the namespace's tunnels, none where they are not to be had.
func (cs *commands) carriedNames(ctx context.Context) (names []string) {
	ctx, cancel := context.WithTimeout(ctx, hesitation)
	defer cancel()
	n, err := cs.connect()
	if err != nil {
		return nil
	}
	o, err := n.look(ctx, "")
	if err != nil {
		return nil
	}
	for i := range o.tunnels {
		for _, s := range o.tunnels[i].Spec.Expose {
			names = append(names, s.Service)
		}
		for _, h := range o.tunnels[i].Spec.Egress {
			names = append(names, h.Host)
		}
	}
	slices.Sort(names)
	return slices.CompactFunc(names, strings.EqualFold)
}
