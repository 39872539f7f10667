// Command demo shows on a real cluster what TenantWire does: two tenants with the same addresses, each with a WireGuard network of
// its own in a namespace that enforces Pod Security "restricted", and a third namespace that nothing happens to. It installs the
// operator, runs the tenants' applications as they are, and checks what it says, with the evidence.
//
//	make demo                     on a cluster of its own (KEEP_CLUSTER=1 leaves it up, with everything in it)
//	KUBECONFIG=... make demo      on yours; it must be able to pull the images that -workload and -install name
//
// The last line is "demo: N of N checks passed", and the exit status says the same.
package main

import (
	"context"
	"embed"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"
)

//go:embed *.yaml
var manifests embed.FS

// The namespaces, and how many servers each runs.
var replicas = map[string]string{"acme": "3", "globex": "2", "bystander": "2"}

type options struct {
	install, scripts, workload string
	keep                       bool
}

func main() { os.Exit(run()) }

func run() int {
	o := options{workload: "tenantwire.test/workload:dev"}
	if v := os.Getenv("DEMO_WORKLOAD"); v != "" {
		o.workload = v
	}
	flag.StringVar(&o.install, "install", "../manifests/install.yaml", "manifest of the operator; empty: it is installed already")
	flag.StringVar(&o.scripts, "scripts", "cluster", "folder of the test cluster's scripts, for captures")
	flag.StringVar(&o.workload, "workload", o.workload, "image of the application (also $DEMO_WORKLOAD)")
	flag.BoolVar(&o.keep, "keep", os.Getenv("KEEP_CLUSTER") == "1", "leave the tenants in the cluster (also KEEP_CLUSTER=1)")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()

	start := time.Now()
	d := &demo{options: o, ctx: ctx, total: len(checks)}
	if !o.keep {
		defer d.clean()
	}
	if err := d.setUp(); err != nil {
		fmt.Fprintln(os.Stderr, "demo: set up:", err)
		d.explain()
		fmt.Printf("demo: 0 of %d checks passed\n", d.total)
		return 1
	}
	for _, c := range checks {
		d.check(c)
	}
	if !o.keep {
		d.say("\nRemoving the namespaces %s (-keep leaves them).", strings.Join(tenants(), ", "))
	} else {
		d.say("\nThe tenants are left as they are. Look around: kubectl get tenanttunnels,tunnelmembers -A -o wide")
	}
	d.say("It took %.0f seconds.", time.Since(start).Seconds())
	skipped := ""
	if d.skipped > 0 {
		skipped = fmt.Sprintf(", %d skipped", d.skipped)
	}
	if !o.keep {
		d.clean()
	}
	fmt.Printf("demo: %d of %d checks passed%s\n", d.passed, d.total, skipped)
	if d.passed+d.skipped < d.total {
		return 1
	}
	return 0
}

// demo is one run.
type demo struct {
	options
	ctx                            context.Context
	total, number, passed, skipped int
	cleaned                        sync.Once
}

func (d *demo) say(format string, args ...any) { fmt.Printf(format+"\n", args...) }

// errSkipped says that a check cannot be made here.
var errSkipped = errors.New("skipped")

func (d *demo) check(c check) {
	d.number++
	ctx, cancel := context.WithTimeout(d.ctx, 5*time.Minute) // reached only by what never happens
	defer cancel()
	e := &evidence{}
	err := c.run(ctx, d, e)
	word := "ok"
	switch {
	case errors.Is(err, errSkipped):
		d.skipped++
		word = "SKIPPED"
	case err != nil:
		word = "FAILED"
	default:
		d.passed++
	}
	d.say("\n[%d/%d] %-3s %s", d.number, d.total, word, c.claim)
	for _, l := range e.lines {
		d.say("      %s", l)
	}
	if err != nil {
		d.say("      -> %v", err)
	}
}

// evidence is what a check saw.
type evidence struct{ lines []string }

func (e *evidence) add(format string, args ...any) {
	e.lines = append(e.lines, fmt.Sprintf(format, args...))
}

// apply applies a manifest of ours as a tenant's.
func (d *demo) apply(file, tenant string) error {
	raw, err := manifests.ReadFile(file)
	if err != nil {
		return err
	}
	text := os.Expand(string(raw), func(k string) string {
		return map[string]string{"TENANT": tenant, "REPLICAS": replicas[tenant], "WORKLOAD": d.workload}[k]
	})
	_, err = kubectlWith(d.ctx, text, "apply", "-f", "-")
	return err
}

// tenants are all namespaces, those that opt in first.
func tenants() []string { return []string{"acme", "globex", "bystander"} }

func (d *demo) setUp() error {
	if _, err := exec.LookPath("kubectl"); err != nil {
		return fmt.Errorf("find kubectl (make demo puts it on the PATH): %w", err)
	}
	if d.install != "" {
		d.say("Installing the operator: kubectl apply -f %s", d.install)
		if _, err := kubectl(d.ctx, "apply", "--server-side", "-f", d.install); err != nil {
			return err
		}
	}
	if _, err := kubectl(d.ctx, "rollout", "status", "-n", "tenantwire-system", "deploy/tenantwire-operator", "--timeout=2m"); err != nil {
		return err
	}
	if err := d.makeRoom(); err != nil {
		return err
	}
	d.say("The operator is up. Two tenants with the same addresses: a namespace, a tunnel, a Service and some pods each.")
	return d.each(func(t string) error {
		if t == "bystander" {
			return errors.Join(d.apply("bystander.yaml", t), d.apply("web.yaml", t), d.apply("client.yaml", t), d.rolledOut(t, "web", "client"))
		}
		if err := d.apply("tunnel.yaml", t); err != nil {
			return err
		}
		if _, err := kubectl(d.ctx, "wait", "-n", t, "tenanttunnel/main", "--for=condition=Accepted", "--timeout=1m"); err != nil {
			return err
		}
		// Servers first: they get the first addresses of the pool, the same ones in both tenants.
		if err := errors.Join(d.apply("web.yaml", t), d.rolledOut(t, "web")); err != nil {
			return err
		}
		return errors.Join(d.apply("client.yaml", t), d.rolledOut(t, "client"))
	})
}

// ours is the label of the namespaces that the demo makes, and may remove.
const ours = "app.kubernetes.io/part-of=tenantwire-demo"

// makeRoom removes what an earlier run left. Namespaces of the same names that are not ours are not touched.
func (d *demo) makeRoom() error {
	if _, err := kubectl(d.ctx, "delete", "namespace", "-l", ours, "--timeout=1m"); err != nil {
		return err
	}
	out, err := kubectl(d.ctx, append([]string{"get", "namespace", "--ignore-not-found", "-o", "name"}, tenants()...)...)
	if err == nil && out != "" {
		err = fmt.Errorf("the cluster has namespaces of the names that the demo uses, and they are not the demo's: %s", strings.Fields(out))
	}
	return err
}

// each runs f for every namespace at once.
func (d *demo) each(f func(tenant string) error) error {
	var wg sync.WaitGroup
	errs := make([]error, len(tenants()))
	for i, t := range tenants() {
		wg.Go(func() { errs[i] = f(t) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

func (d *demo) rolledOut(tenant string, deployments ...string) error {
	for _, name := range deployments {
		if _, err := kubectl(d.ctx, "rollout", "status", "-n", tenant, "deploy/"+name, "--timeout=90s"); err != nil {
			return err
		}
	}
	return nil
}

// explain prints what a person would look at when the set-up fails.
func (d *demo) explain() {
	for _, args := range [][]string{
		{"get", "pods", "-A", "-o", "wide"},
		{"get", "tenanttunnels,tunnelmembers", "-A", "-o", "wide"},
		{"get", "events", "-A", "--field-selector=type=Warning"},
		{"logs", "-n", "tenantwire-system", "deploy/tenantwire-operator", "--tail=20"},
	} {
		out, err := kubectl(context.WithoutCancel(d.ctx), args...)
		d.say("$ kubectl %s\n%s", strings.Join(args, " "), out)
		if err != nil {
			d.say("%v", err)
		}
	}
}

// clean removes the tenants, even after a Ctrl-C. The operator stays, as installing it is no part of what is shown.
func (d *demo) clean() {
	d.cleaned.Do(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(d.ctx), time.Minute)
		defer cancel()
		if _, err := kubectl(ctx, "delete", "namespace", "-l", ours, "--wait=false"); err != nil {
			fmt.Fprintln(os.Stderr, "demo: clean up:", err)
		}
	})
}
