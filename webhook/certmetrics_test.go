package webhook

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
)

func TestCertificateMetric(t *testing.T) {
	c := newTestCertificates(t, CertRotated)
	if n := testutil.CollectAndCount(ExpiryCollector(c.Expires)); n != 0 {
		t.Errorf("%d series without a certificate", n)
	}
	for _, until := range []time.Duration{time.Hour, 2 * time.Hour} { // the second one is a rotation
		i := issue(t, c.options.DNSNames(), until)
		if err := c.accept(i.cert, i.key, i.ca); err != nil {
			t.Fatal(err)
		}
		want := fmt.Sprintf(`# HELP tenantwire_certificate_expiry_timestamp_seconds Unix time at which the serving certificate of this replica expires.
# TYPE tenantwire_certificate_expiry_timestamp_seconds gauge
tenantwire_certificate_expiry_timestamp_seconds %d
`, c.cert.Leaf.NotAfter.Unix())
		if err := testutil.CollectAndCompare(ExpiryCollector(c.Expires), strings.NewReader(want)); err != nil {
			t.Error(err)
		}
	}
}
