package sim_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/datera-csi/datera-csi/internal/sim/simtest"
)

// story is a transcript: requests and what the array answers, written from the
// array's documentation and not from this package's output. A response holds
// the members that matter; others may come with them. Lists are whole.
type story struct {
	About string
	Steps []struct {
		About   string
		Request struct {
			Method, Path string
			Headers      map[string]string
			Body         any
		}
		Response struct {
			Status int
			Body   any
		}
	}
}

func TestTranscripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.json")
	if err != nil || len(files) == 0 {
		t.Fatalf("no transcripts: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".json"), func(t *testing.T) {
			raw, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var s story
			d := json.NewDecoder(bytes.NewReader(raw))
			d.DisallowUnknownFields()
			if err := d.Decode(&s); err != nil {
				t.Fatal(err)
			}
			p := player{url: simtest.Start(t).URL, bound: map[string]string{}}
			for i, step := range s.Steps {
				status, got := p.send(t, step.Request.Method, step.Request.Path, step.Request.Headers, step.Request.Body)
				where := fmt.Sprintf("step %d, %s %s", i+1, step.Request.Method, step.Request.Path)
				if status != step.Response.Status {
					t.Fatalf("%s: status %d, want %d: %v", where, status, step.Response.Status, got)
				}
				if step.Response.Body == nil {
					continue
				}
				if diff := p.differ("", step.Response.Body, got); diff != "" {
					t.Fatalf("%s: %s", where, diff)
				}
			}
		})
	}
}

// player plays a transcript. What an array makes up (ids, keys, timestamps,
// target names) stands in the transcript as an example; the first answer binds
// it, and from then on it must be the same everywhere.
type player struct {
	url   string
	bound map[string]string
}

var madeUp = regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|\b[0-9a-f]{32}\b|sn:[0-9a-f]{16}|\b\d{10}\.\d+\b`)

// real puts the array's own values in the place of the examples.
func (p *player) real(s string) string {
	return madeUp.ReplaceAllStringFunc(s, func(x string) string {
		if y, ok := p.bound[x]; ok {
			return y
		}
		return x
	})
}

func (p *player) send(t *testing.T, method, path string, headers map[string]string, body any) (int, any) {
	t.Helper()
	raw := []byte{}
	if body != nil {
		encoded, err := json.Marshal(body)
		if err != nil {
			t.Fatal(err)
		}
		raw = []byte(p.real(string(encoded)))
	}
	req, err := http.NewRequest(method, p.url+p.real(path), bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	for k, v := range headers {
		req.Header.Set(k, p.real(v))
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	var got any
	if err := json.Unmarshal(answer, &got); err != nil {
		t.Fatalf("%s %s answers %q: %v", method, path, answer, err)
	}
	return resp.StatusCode, got
}

// differ says where got is not what the transcript has; "" means nowhere.
func (p *player) differ(at string, want, got any) string {
	switch want := want.(type) {
	case map[string]any:
		o, ok := got.(map[string]any)
		if !ok {
			return fmt.Sprintf("%s is %v, want an object", at, got)
		}
		for key, value := range want {
			inner, ok := o[p.real(key)]
			if !ok {
				return fmt.Sprintf("%s.%s is missing in %v", at, key, got)
			}
			if diff := p.differ(at+"."+key, value, inner); diff != "" {
				return diff
			}
		}
		return ""
	case []any:
		l, ok := got.([]any)
		if !ok || len(l) != len(want) {
			return fmt.Sprintf("%s is %v, want %d items", at, got, len(want))
		}
		for i := range want {
			if diff := p.differ(fmt.Sprintf("%s[%d]", at, i), want[i], l[i]); diff != "" {
				return diff
			}
		}
		return ""
	case string:
		if s, ok := got.(string); ok && p.same(want, s) {
			return ""
		}
		return fmt.Sprintf("%s is %v, want %q (%s)", at, got, want, p.real(want))
	}
	if !reflect.DeepEqual(want, got) {
		return fmt.Sprintf("%s is %v, want %v", at, got, want)
	}
	return ""
}

const zeros = "00000000-0000-0000-0000-000000000000"

// same compares texts and binds what is made up.
func (p *player) same(want, got string) bool {
	if madeUp.ReplaceAllString(want, "?") != madeUp.ReplaceAllString(got, "?") {
		return false
	}
	wants, gots := madeUp.FindAllString(want, -1), madeUp.FindAllString(got, -1)
	for i := range wants {
		if _, ok := p.bound[wants[i]]; !ok && wants[i] != zeros {
			p.bound[wants[i]] = gots[i]
		}
		if p.real(wants[i]) != gots[i] {
			return false
		}
	}
	return true
}
