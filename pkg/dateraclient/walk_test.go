package dateraclient_test

import (
	"cmp"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/http"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"

	godiff "github.com/google/go-cmp/cmp"

	"github.com/datera-csi/datera-csi/internal/sim"
	"github.com/datera-csi/datera-csi/internal/sim/simtest"
	"github.com/datera-csi/datera-csi/pkg/dateraclient"
)

// walked are the names on the way from a place to the end.
func walked(t *testing.T, c *dateraclient.Client, from dateraclient.Place, size int, each ...func(dateraclient.Step)) []string {
	t.Helper()
	var names []string
	last := false
	for step, err := range c.Walk(t.Context(), from, size) {
		if err != nil {
			t.Fatal(err)
		}
		if last {
			t.Errorf("%s came after the last", step.Name)
		}
		names, last = append(names, step.Name), step.Last
		for _, do := range each {
			do(step)
		}
	}
	return names
}

func TestWalkAsksOnceAPage(t *testing.T) {
	s, c := simulated(t)
	var want []string
	for i := range 25 {
		want = append(want, fmt.Sprintf("vol-%02d", 24-i))
		mustCreate(t, c, small(want[i]))
	}
	slices.Sort(want)
	s.ResetRequests()
	if diff := godiff.Diff(walked(t, c, dateraclient.Place{}, 10), want); diff != "" {
		t.Errorf("(-got +want):\n%s", diff)
	}
	wantRequests(t, s, slices.Repeat([]string{"GET /app_instances"}, 3)...) // 10, then 9 more each
	if got := walked(t, c, dateraclient.Place{}, 1000); len(got) != 25 {
		t.Errorf("got %v", got)
	}
	wantRequests(t, s, "GET /app_instances")
}

func TestWalkGoesOnFromEveryPlace(t *testing.T) {
	s, c := simulated(t)
	for i := range 12 {
		mustCreate(t, c, small(fmt.Sprintf("vol-%02d", i)))
	}
	var places []dateraclient.Place
	names := walked(t, c, dateraclient.Place{}, 5, func(step dateraclient.Step) { places = append(places, step.Place) })
	for i, place := range places {
		s.ResetRequests()
		if diff := godiff.Diff(walked(t, c, place, 20), names[i+1:], godiff.Transformer("empty", func(s []string) string { return strings.Join(s, " ") })); diff != "" {
			t.Errorf("from %+v (-got +want):\n%s", place, diff)
		}
		wantRequests(t, s, "GET /app_instances")
	}
}

// TestWalkSurvivesCreatesAndDeletes changes the list before every step, on both
// sides of the place, and asks that whatever exists all the time is visited once.
func TestWalkSurvivesCreatesAndDeletes(t *testing.T) {
	for seed := range uint64(10) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			_, c := simulated(t)
			r := rand.New(rand.NewPCG(seed, 1))
			var stay, volatile []string
			for i := range 60 {
				name := fmt.Sprintf("vol-%03d", 10*i)
				mustCreate(t, c, small(name))
				if r.IntN(2) == 0 {
					stay = append(stay, name)
				} else {
					volatile = append(volatile, name)
				}
			}
			var got []string
			from := dateraclient.Place{}
			for done := false; !done; {
				for step, err := range c.Walk(t.Context(), from, 7) {
					if err != nil {
						t.Fatal(err)
					}
					got, from, done = append(got, step.Name), step.Place, step.Last
					for range r.IntN(4) {
						volatile = churn(t, c, r, volatile)
					}
					if r.IntN(5) == 0 {
						break // and go on from the place
					}
				}
			}
			if !slices.IsSorted(got) {
				t.Errorf("out of order: %v", got)
			}
			seen := slices.DeleteFunc(got, func(n string) bool { return !slices.Contains(stay, n) })
			if diff := godiff.Diff(seen, stay); diff != "" {
				t.Errorf("what was there all the time (-got +want):\n%s", diff)
			}
		})
	}
}

// churn deletes one of the names or makes a new one.
func churn(t *testing.T, c *dateraclient.Client, r *rand.Rand, names []string) []string {
	t.Helper()
	if len(names) > 0 && r.IntN(2) == 0 {
		i := r.IntN(len(names))
		if err := c.DeleteVolume(t.Context(), mustRead(t, c, names[i])); err != nil {
			t.Fatal(err)
		}
		return slices.Delete(names, i, i+1)
	}
	name := fmt.Sprintf("vol-%03d", 10*r.IntN(60)+1+r.IntN(9))
	if slices.Contains(names, name) {
		return names
	}
	mustCreate(t, c, small(name))
	return append(names, name)
}

func TestWalkFindsItsPlaceAfterALandslide(t *testing.T) {
	s, c := simulated(t)
	for i := range 200 {
		mustCreate(t, c, small(fmt.Sprintf("vol-%03d", i)))
	}
	place := dateraclient.Place{After: "vol-149", Offset: 150}
	for i := range 140 {
		if err := c.DeleteVolume(t.Context(), mustRead(t, c, fmt.Sprintf("vol-%03d", i))); err != nil {
			t.Fatal(err)
		}
	}
	s.ResetRequests()
	got := walked(t, c, place, 10)
	if len(got) != 50 || got[0] != "vol-150" {
		t.Errorf("got %d from %q, want the 50 from vol-150 on", len(got), got[0])
	}
	if n := len(requested(s)); n > 20 {
		t.Errorf("it took %d requests to find the place and list 50", n)
	}
	for i := range 140 {
		mustCreate(t, c, small(fmt.Sprintf("vol-%03d", i)))
	}
	place.Offset = 10 // as if it had been noted while they were away
	if got = walked(t, c, place, 10); len(got) != 50 || got[0] != "vol-150" {
		t.Errorf("got %d from %q, want the 50 from vol-150 on", len(got), got[0])
	}
	if got = walked(t, c, dateraclient.Place{After: "vol-149x"}, 10); len(got) != 50 {
		t.Errorf("from a name without an offset: got %d, want 50", len(got))
	}
	if got = walked(t, c, dateraclient.Place{After: "vol-999", Offset: 1 << 30}, 10); len(got) != 0 {
		t.Errorf("from behind the end: got %v", got)
	}
}

// TestWalkSearchesWithoutGaps changes the list between two pages of the search for
// a place, which must not lose what comes after it.
func TestWalkSearchesWithoutGaps(t *testing.T) {
	f, s := newFake(t)
	lists := []string{"abcdefghij", "abcdefghij", "bcdefghij", "bcdefghij", "bcdefghij", "bcdefghij", "bcdefghij"} // a goes while f is looked for
	asked := 0
	f.rest = func(w http.ResponseWriter, r *http.Request) {
		list := lists[min(asked, len(lists)-1)]
		asked++
		offset, _ := strconv.Atoi(r.URL.Query().Get("offset"))
		var parts []string
		for _, name := range list[min(offset, len(list)):min(offset+3, len(list))] {
			parts = append(parts, fmt.Sprintf(`{"name":"%c"}`, name))
		}
		fmt.Fprintf(w, `{"metadata":{"total_count":%d,"offset":%d},"data":[%s]}`, len(list), offset, strings.Join(parts, ","))
	}
	got := strings.Join(walked(t, client(t, s.URL), dateraclient.Place{After: "f"}, 3), "")
	if got != "ghij" {
		t.Errorf("got %q, want ghij", got)
	}
}

func TestWalkEndsOnAnArrayThatSendsOneAtATime(t *testing.T) {
	f, s := newFake(t)
	f.rest = func(w http.ResponseWriter, r *http.Request) {
		offset, _ := strconv.Atoi(r.URL.Query().Get("offset"))
		fmt.Fprintf(w, `{"metadata":{"total_count":4,"offset":%d},"data":[%s]}`, offset, []string{`{"name":"a"}`, `{"name":"b"}`, `{"name":"c"}`, `{"name":"d"}`, ""}[min(offset, 4)])
	}
	if got := strings.Join(walked(t, client(t, s.URL), dateraclient.Place{}, 3), ""); got != "abcd" {
		t.Errorf("got %q, want abcd", got)
	}
}

func TestWalkVisitsWhatIsNotAVolume(t *testing.T) {
	s, c := simulated(t)
	mustCreate(t, c, small("vol-a"))
	administrator(t, s, "/root", http.MethodPost, "/app_instances", `{"name":"two","storage_instances":[]}`)
	mustCreate(t, c, small("vol-b"))
	var shapes []string
	names := walked(t, c, dateraclient.Place{}, 2, func(step dateraclient.Step) {
		if errors.Is(step.Shape, dateraclient.ErrShape) && step.Volume == nil {
			shapes = append(shapes, step.Name)
		} else if step.Volume.Name != step.Name {
			t.Errorf("volume %s is called %s", step.Volume.Name, step.Name)
		}
	})
	if diff := godiff.Diff([][]string{names, shapes}, [][]string{{"two", "vol-a", "vol-b"}, {"two"}}); diff != "" {
		t.Errorf("(-got +want):\n%s", diff)
	}
}

func TestWalkGoesOnPastAnUnintelligibleElement(t *testing.T) {
	f, s := newFake(t)
	f.rest = body(200, `{"metadata":{"total_count":3,"offset":0},"data":[
		{"name":"aaa","storage_instances":7},{"name":{"x":1}},{"name":"ccc","storage_instances":[]}]}`)
	var got []string
	for step, err := range client(t, s.URL).Walk(t.Context(), dateraclient.Place{}, 10) {
		if err != nil {
			t.Fatal(err)
		}
		if !errors.Is(step.Shape, dateraclient.ErrShape) {
			t.Errorf("%s: got %v", step.Name, step.Shape)
		}
		got = append(got, fmt.Sprintf("%s after %q", cmp.Or(step.Name, "(none)"), step.Place.After))
	}
	want := []string{`aaa after "aaa"`, `(none) after "aaa"`, `ccc after "ccc"`}
	if diff := godiff.Diff(got, want); diff != "" {
		t.Errorf("(-got +want):\n%s", diff)
	}
}

func TestWalkSaysWhatFailed(t *testing.T) {
	s, c := simulated(t)
	for i := range 9 {
		mustCreate(t, c, small(fmt.Sprintf("vol-%d", i)))
	}
	n := 0
	var failed error
	for _, err := range c.Walk(t.Context(), dateraclient.Place{}, 5) {
		if failed != nil {
			t.Fatal("it went on after an error")
		}
		if failed = err; err == nil {
			n++
		}
		if n == 1 {
			s.Fail(simtest.Get("/app_instances"), sim.Fault{Status: 403, Times: -1})
		}
	}
	if n != 5 || !errors.Is(failed, dateraclient.ErrPermission) {
		t.Errorf("got %d and %v, want 5 and ErrPermission", n, failed)
	}
}

// TestWalkThroughManyInBoundedMemory lists as many app instances as -walk says,
// and asks that memory does not grow with their number.
func TestWalkThroughManyInBoundedMemory(t *testing.T) {
	s := simtest.Start(t, func(c *sim.Config) {
		c.Record = false
		c.Limits.AppInstances, c.Limits.StorageInstances, c.Limits.Volumes = -1, -1, -1
	})
	c := clientOf(t, s)
	s.Fill(t, *walkCount)
	before := heap()
	most, n, last := uint64(0), 0, ""
	for step, err := range c.Walk(t.Context(), dateraclient.Place{}, dateraclient.MaxPage) {
		if err != nil {
			t.Fatal(err)
		}
		if n++; step.Name <= last {
			t.Fatalf("%s came after %s", step.Name, last)
		}
		if last = step.Name; n%5000 == 0 {
			most = max(most, heap())
		}
	}
	if n != *walkCount {
		t.Errorf("visited %d, want %d", n, *walkCount)
	}
	if grown := int64(most) - int64(before); grown > 32<<20 {
		t.Errorf("%d MiB more in use while listing %d app instances", grown>>20, n)
	}
}

func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

var walkCount = flag.Int("walk", 5000, "app instances to list in bounded memory; the long run takes 100000")
