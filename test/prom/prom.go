package prom

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/tenantwire/tenantwire/test/kit"
)

// Prometheus is one that runs until the test ends.
type Prometheus struct {
	t   kit.T
	dir string
	at  string // HOST:PORT of its API
}

// root is the repository's folder.
func root() string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Join(filepath.Dir(file), "..", "..")
}

// monitoring is the folder of what is shipped for it.
func monitoring() string { return filepath.Join(root(), "manifests", "monitoring") }

// started gives each a port of its own in the node's network.
var started atomic.Int32

// Start runs a Prometheus that scrapes what the PodMonitors select and evaluates the alerts, and returns once it serves.
func Start(t kit.T, c *kit.Cluster) *Prometheus {
	t.Helper()
	kit.NeedNodes(t)
	if out, err := exec.CommandContext(t.Context(), filepath.Join(root(), "test", "cluster", "build.sh"), "prometheus").CombinedOutput(); err != nil { //nolint:gosec // a script of ours
		t.Fatalf("build Prometheus: %v: %s", err, out)
	}
	dir, err := os.MkdirTemp("", "prometheus")
	if err != nil {
		t.Fatalf("make a folder: %v", err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	p := &Prometheus{t: t, dir: dir}
	if err := p.configure(); err != nil {
		t.Fatalf("configure Prometheus: %v", err)
	}
	p.discover(c)
	netns := filepath.Base(os.Getenv("TW_STATE")) + "-n1"
	address := net.JoinHostPort("127.0.0.1", strconv.Itoa(int(19090+started.Add(1))))
	p.run("prometheus", "ip", "netns", "exec", netns, "prometheus", "--config.file", p.file("prometheus.yml"), "--storage.tsdb.path", p.file("data"),
		"--web.listen-address", address, "--log.level", "warn")
	p.run("forward", "clustertool", "forward", "-listen", "127.0.0.1:0", "-address-file", p.file("address"), "-netns", "/run/netns/"+netns, "-to", address)
	kit.Eventually(t, kit.Deadline, "Prometheus", func() error {
		at, err := os.ReadFile(p.file("address"))
		if err != nil {
			return err
		}
		p.at = string(at)
		_, err = p.get(t.Context(), "/-/ready", nil)
		return err
	})
	return p
}

func (p *Prometheus) file(name string) string { return filepath.Join(p.dir, name) }

// run starts a program until the test ends; its log is shown if that failed.
func (p *Prometheus) run(name, program string, args ...string) {
	p.t.Helper()
	log, err := os.Create(p.file(name + ".log"))
	if err != nil {
		p.t.Fatalf("make a log: %v", err)
	}
	c := exec.Command(program, args...) //nolint:gosec // a test's own words
	c.Stdout, c.Stderr = log, log
	if err := c.Start(); err != nil {
		p.t.Fatalf("start %s: %v", name, err)
	}
	p.t.Cleanup(func() {
		_ = c.Process.Kill()
		_ = c.Wait()
		_ = log.Close()
		if b, err := os.ReadFile(log.Name()); err == nil && p.t.Failed() && len(b) > 0 {
			p.t.Logf("log of %s:\n%s", name, b[max(0, len(b)-4096):])
		}
	})
}

// configure writes the configuration and the rules.
func (p *Prometheus) configure() error {
	monitors, err := podMonitors()
	if err != nil {
		return err
	}
	var jobs []object
	for _, m := range monitors {
		more, err := m.jobs(p.file(targetsFile))
		if err != nil {
			return err
		}
		jobs = append(jobs, more...)
	}
	rules, err := scaledRules()
	if err != nil {
		return err
	}
	for name, content := range map[string]object{
		"rules.yml": rules,
		"prometheus.yml": {"global": object{"evaluation_interval": "1s"}, "rule_files": []string{p.file("rules.yml")},
			"scrape_configs": jobs},
	} {
		b, err := yaml.Marshal(content)
		if err != nil {
			return err
		}
		if err := os.WriteFile(p.file(name), b, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// Sample is one series of a query's answer.
type Sample struct {
	Labels map[string]string
	Value  float64
}

// Query asks for an instant vector.
func (p *Prometheus) Query(query string) ([]Sample, error) {
	b, err := p.get(p.t.Context(), "/api/v1/query", url.Values{"query": {query}})
	if err != nil {
		return nil, err
	}
	var answer struct {
		Data struct {
			Result []struct {
				Metric map[string]string
				Value  [2]any // time, value
			}
		}
	}
	if err := json.Unmarshal(b, &answer); err != nil {
		return nil, fmt.Errorf("query %s: %w: %s", query, err, b)
	}
	var out []Sample
	for _, r := range answer.Data.Result {
		text, _ := r.Value[1].(string)
		v, err := strconv.ParseFloat(text, 64)
		if err != nil {
			return nil, fmt.Errorf("query %s: %w", query, err)
		}
		out = append(out, Sample{r.Metric, v})
	}
	return out, nil
}

// Firing are the alerts that match, `namespace="x"` for example, and fire now.
func (p *Prometheus) Firing(match string) ([]Sample, error) {
	return p.Query(fmt.Sprintf(`ALERTS{alertstate="firing",%s}`, match))
}

// Fired are those that fired at any time since then.
func (p *Prometheus) Fired(match string, since time.Time) ([]Sample, error) {
	return p.Query(fmt.Sprintf(`max_over_time(ALERTS{alertstate="firing",%s}[%ds])`, match, max(1, int(time.Since(since).Seconds()))))
}

// CheckRules says which alert could not be evaluated, or has not been yet.
func (p *Prometheus) CheckRules() error {
	b, err := p.get(p.t.Context(), "/api/v1/rules", url.Values{"type": {"alert"}})
	if err != nil {
		return err
	}
	var answer struct {
		Data struct {
			Groups []struct {
				Rules []struct{ Name, Health, LastError string }
			}
		}
	}
	if err := json.Unmarshal(b, &answer); err != nil {
		return fmt.Errorf("rules: %w: %s", err, b)
	}
	want, err := AlertNames()
	if err != nil {
		return err
	}
	for _, g := range answer.Data.Groups {
		for _, r := range g.Rules {
			if r.Health != "ok" {
				return fmt.Errorf("alert %s: %s %s", r.Name, r.Health, r.LastError)
			}
			want = remove(want, r.Name)
		}
	}
	if len(want) > 0 {
		return fmt.Errorf("not evaluated: %s", strings.Join(want, ", "))
	}
	return nil
}

func remove(list []string, s string) (out []string) {
	for _, x := range list {
		if x != s {
			out = append(out, x)
		}
	}
	return out
}

func (p *Prometheus) get(ctx context.Context, path string, query url.Values) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	u := url.URL{Scheme: "http", Host: p.at, Path: path, RawQuery: query.Encode()}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, err
	}
	r, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = r.Body.Close() }()
	b, err := io.ReadAll(r.Body)
	if err == nil && r.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s: %s", path, r.Status, b)
	}
	return b, err
}
