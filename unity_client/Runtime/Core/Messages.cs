using System.Collections.Generic;

namespace Everscene
{
    /// <summary>When an event takes hold.</summary>
    public enum When
    {
        /// <summary>As the scene says for this event.</summary>
        Default,
        /// <summary>At once: the chunk in flight is not waited for.</summary>
        Now,
        /// <summary>From the next chunk that starts.</summary>
        Chunk,
    }

    /// <summary>How a prompt, or words in slots, take over.</summary>
    public enum Transition
    {
        /// <summary>The window's keys and values are recomputed under the new prompt: motion goes on.</summary>
        Recache,
        /// <summary>Only the text changes.</summary>
        Text,
        /// <summary>Little by little.</summary>
        Blend,
        /// <summary>A new shot.</summary>
        Cut,
        /// <summary>A new world.</summary>
        Reset,
    }

    /// <summary>The messages a client sends, docs/protocol.md §4, in the order of its tables.</summary>
    public static class Messages
    {
        public const int Major = 1;
        public const int Minor = 0;
        public const int LongestMessage = 65536;

        public static byte[] Hello(MsgPackWriter w, string client, long clientId, string language, string version) =>
            w.Reset().Map(6).Text("type").Text("hello")
                .Text("protocol").List(2).Integer(Major).Integer(Minor)
                .Text("client").Text(client).Text("client_id").Integer(clientId)
                .Text("language").Text(language).Text("version").Text(version).ToArray();

        public static byte[] Event(
            MsgPackWriter w, long id, string name, EventParam[] values, When when, long clientNs)
        {
            w.Reset().Map(6).Text("type").Text("event").Text("id").Integer(id).Text("name").Text(name);
            w.Text("params").Map(values.Length);
            foreach (EventParam value in values) value.Write(w);
            return w.Text("when").Text(Word(when)).Text("client_ns").Integer(clientNs).ToArray();
        }

        /// <param name="blend">For the transition of this name; null: the server's defaults.</param>
        public static byte[] Prompt(
            MsgPackWriter w, long id, string text, Transition transition, Blend blend, When when, long clientNs)
        {
            w.Reset().Map(blend == null ? 6 : 9).Text("type").Text("prompt").Text("id").Integer(id).Text("text").Text(text);
            return EndWay(w, transition, blend, when, clientNs);
        }

        /// <param name="blend">As of a prompt.</param>
        public static byte[] Slots(
            MsgPackWriter w, long id, IReadOnlyDictionary<string, string> words, Transition transition, Blend blend, When when,
            long clientNs)
        {
            w.Reset().Map(blend == null ? 6 : 9).Text("type").Text("slots").Text("id").Integer(id).Text("slots").Map(words.Count);
            foreach (KeyValuePair<string, string> one in words) w.Text(one.Key).Text(one.Value);
            return EndWay(w, transition, blend, when, clientNs);
        }

        public static byte[] Seen(MsgPackWriter w, long frame, long seenNs) =>
            w.Reset().Map(3).Text("type").Text("seen").Text("frame").Integer(frame)
                .Text("seen_ns").Integer(seenNs).ToArray();

        public static byte[] Ping(MsgPackWriter w, long id, long clientNs) =>
            w.Reset().Map(3).Text("type").Text("ping").Text("id").Integer(id)
                .Text("client_ns").Integer(clientNs).ToArray();

        public static byte[] StatsRequest(MsgPackWriter w, long id) =>
            w.Reset().Map(2).Text("type").Text("stats_request").Text("id").Integer(id).ToArray();

        public static byte[] Bye(MsgPackWriter w) => w.Reset().Map(1).Text("type").Text("bye").ToArray();

        static byte[] EndWay(MsgPackWriter w, Transition transition, Blend blend, When when, long clientNs)
        {
            w.Text("transition").Text(transition.ToString().ToLowerInvariant());
            if (blend != null)
                w.Text("seconds").Number(blend.Seconds).Text("ease").Text(blend.Ease.ToString().ToLowerInvariant())
                    .Text("path").Text(blend.Path.ToString().ToLowerInvariant());
            return w.Text("when").Text(Word(when)).Text("client_ns").Integer(clientNs).ToArray();
        }

        static string Word(When when) => when == When.Default ? null : when == When.Now ? "now" : "chunk";
    }
}
