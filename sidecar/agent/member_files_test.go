package agent

import (
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
	"github.com/tenantwire/tenantwire/sidecar/wire"
)

// TestMemberCARotation: a certificate that the file does not sign is refused, until the file says otherwise. No restart.
func TestMemberCARotation(t *testing.T) {
	l, s := joined(t)
	next := newAuthority(t)
	l.c.cert.Store(next)
	close(s.end)
	eventually(t, "the new certificate is refused", func() error {
		if strings.Contains(l.log.String(), "certificate signed by unknown authority") {
			return nil
		}
		return errors.New("no such log line")
	})
	must(t, os.WriteFile(l.opts.CAFile, []byte("half a file"), 0o600))
	eventually(t, "a broken file is refused", func() error {
		if strings.Contains(l.log.String(), "holds no PEM certificate") {
			return nil
		}
		return errors.New("no such log line")
	})
	must(t, l.echoes())
	select {
	case <-l.c.streams:
		t.Fatal("an unknown certificate was trusted")
	default:
	}
	must(t, os.WriteFile(l.opts.CAFile, next.pem, 0o600))
	l.c.next(t, l.config().Revision())
}

// TestMemberToken: kubelet replaces the token in its file, and the next request has the new one.
func TestMemberToken(t *testing.T) {
	l, s := joined(t)
	must(t, os.WriteFile(l.opts.TokenFile, []byte("token-2\n"), 0o600))
	close(s.end)
	l.c.next(t, l.config().Revision())
	l.c.mu.Lock()
	defer l.c.mu.Unlock()
	if last := l.c.tokens[len(l.c.tokens)-1]; last != "Bearer token-2" {
		t.Errorf("the last request had %q", last)
	}
	if strings.Contains(l.log.String(), "token-1") || strings.Contains(l.log.String(), "token-2") {
		t.Error("a token is in the log")
	}
}

// TestMemberWithoutItsDatapath: a member that cannot have what was asked for does not run, takes nothing else, and says so: in its error
// and to the coordinator, also where that knows the member only later.
func TestMemberWithoutItsDatapath(t *testing.T) {
	l := newLab(t)
	l.c.prepare(wire.ReportPath, http.StatusNotFound, http.StatusServiceUnavailable)
	none := &noDatapathError{errors.New("datapath Kernel was asked for and cannot be had: " + strings.Repeat("x", 600))}
	none.tell(t.Context(), l.opts)
	r := <-l.c.reports
	if r.Ready || !r.DatapathUnavailable || !strings.HasPrefix(r.Reason, "datapath Kernel was asked for") || len(r.Reason) > 512 {
		t.Errorf("reported %+v", r)
	}
	if n := len(l.c.registered()); n != 0 {
		t.Error("registered without a data path")
	}
}

// TestMemberSaysWhatTheWebhookKnows: the reason that the webhook had goes before the one that trying would give.
func TestMemberSaysWhatTheWebhookKnows(t *testing.T) {
	l := newLab(t)
	l.opts.DatapathWhy = "Auto: Netstack; the namespace forbids the rest"
	l.start(t)
	l.c.next(t, "")
	defer l.stop(t)
	if r := l.c.registered()[0]; r.Datapath != datapath.Netstack || r.DatapathReason != l.opts.DatapathWhy {
		t.Errorf("registered %+v", r)
	}
	_, metrics, err := l.health("/metrics")
	must(t, err)
	if want := `tenantwire_datapath_info{asked="Netstack",datapath="Netstack",why="` + l.opts.DatapathWhy + `"} 1`; !strings.Contains(metrics, want) {
		t.Errorf("no metric %s", want)
	}
}

// TestMemberKeyFile: a key that cannot be read is an error, and the file is left as it is.
func TestMemberKeyFile(t *testing.T) {
	for name, make := range map[string]func(path string) error{
		"garbled": func(p string) error { return os.WriteFile(p, []byte(testPrivate[:30]), 0o600) },
		"empty":   func(p string) error { return os.WriteFile(p, nil, 0o600) },
		"zero":    func(p string) error { return os.WriteFile(p, []byte(strings.Repeat("A", 43)+"="), 0o600) },
		"folder":  func(p string) error { return os.Mkdir(p, 0o700) },
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t)
			path := filepath.Join(l.opts.StateDir, "key")
			must(t, make(path))
			before, _ := os.ReadFile(path)
			err := RunMember(t.Context(), l.opts)
			if err == nil {
				t.Fatal("it runs")
			}
			noKey(t, err.Error())
			if after, _ := os.ReadFile(path); string(after) != string(before) {
				t.Error("the key file was replaced")
			}
			if n := len(l.c.registered()); n != 0 {
				t.Error("registered without its key")
			}
		})
	}
}
