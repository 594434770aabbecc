using System;
using System.Collections.Generic;

namespace Everscene
{
    public enum ClientState
    {
        Connecting,
        Connected,
        /// <summary>Trying again would change nothing (token, port, version); make a new client with other settings.</summary>
        Refused,
        Stopped,
    }

    /// <summary>How frames should come.</summary>
    public enum FrameTransport
    {
        /// <summary>From the ring; where it cannot be opened, raw up to 50 MB/s and JPEG above.</summary>
        Auto,
        Ring,
        Raw,
        Jpeg,
    }

    public sealed class ClientSettings
    {
        public string Endpoint { get; set; } = "tcp://127.0.0.1:7464";
        /// <summary>Empty: none.</summary>
        public string Token { get; set; } = "";
        /// <summary>Name for people, 1 to 64 characters.</summary>
        public string Name { get; set; } = "unity";
        public FrameTransport Transport { get; set; } = FrameTransport.Auto;
        /// <summary>False: the ring is read call by call, as on platforms without memory mapping.</summary>
        public bool MayMap { get; set; } = true;
    }

    /// <summary>
    /// A connection to a sidecar: events out, receipts, news and frames in. Its threads own the sockets; everything that
    /// you see happens inside <see cref="Poll"/>, on your thread, and nothing here ever waits for the network.
    /// <code>
    /// var client = new EversceneClient(new ClientSettings());
    /// // once a frame:
    /// client.Poll();
    /// while (client.Frames.TryNext(Playback.Newest, out FrameInfo info))
    ///     if (client.Frames.TryCopy(ref info, pixels, capacity, false)) { client.MarkShown(ref info); break; }
    /// </code>
    /// </summary>
    public sealed partial class EversceneClient : IDisposable
    {
        public const string Version = "0.1.0";
        const int UnsentMs = 5000;
        const int SendAgainMs = 20000; // docs/protocol.md §5
        const int ReceiptsKeptMs = 30000; // by a server for a client that is away, §3
        const int UnansweredMs = 10000;
        const int ChoresMs = 250;
        const int PingEveryMs = 10000;
        const int StopMs = 90;

        readonly ClientSettings settings;
        readonly Endpoint endpoint;
        readonly long clientId;
        readonly NewsQueue news = new NewsQueue();
        readonly UnixClock clock = new UnixClock();
        readonly MsgPackWriter writer = new MsgPackWriter();
        readonly ControlLink control;
        readonly FramesLink frames;
        readonly Dictionary<long, Receipt> open = new Dictionary<long, Receipt>();
        readonly List<Receipt> unseen = new List<Receipt>();
        readonly List<Outgoing> expired = new List<Outgoing>();
        readonly List<Receipt> chosen = new List<Receipt>();
        long nextId = 1;
        long epoch;
        int session;
        long marker; // id of the ping whose answer comes after every receipt that the server knows of
        long answersDueMs = -1;
        long choresAtMs;
        long pingAtMs;
        int pingsSoon;
        string lastTrouble = "";
        string framesProblem = "";

        /// <summary>Raised inside Poll, each on the polling thread.</summary>
        public event Action<Welcome> Connected;
        /// <summary>The reason, in words. The client connects again by itself.</summary>
        public event Action<string> Disconnected;
        /// <summary>Something is wrong; the same words are not repeated until the next success.</summary>
        public event Action<string> Failed;
        /// <summary>A receipt has moved on.</summary>
        public event Action<Receipt> ReceiptChanged;
        /// <summary>The prompt in force, and the order behind it.</summary>
        public event Action<string, long> PromptChanged;
        /// <summary>`live`, `slow`, `stalled`, …, and the reason.</summary>
        public event Action<string, string> ServerStateChanged;
        public event Action<SceneDescription> SceneChanged;
        public event Action<ServerStats> StatsReceived;
        /// <summary>
        /// Somebody's event, prompt or slots were accepted: its name, its text, or `slot: words, …`; and the sender's name.
        /// </summary>
        public event Action<string, string> InputAccepted;

        public ClientState State { get; private set; } = ClientState.Connecting;
        /// <summary>What the server said last; null before the first welcome.</summary>
        public Welcome Welcome { get; private set; }
        public SceneDescription Scene { get; private set; } = new SceneDescription();
        public string Prompt { get; private set; } = "";
        public string ServerState { get; private set; } = "";
        public ServerStats LatestStats { get; private set; }
        /// <summary>Why it is not connected, or what went wrong last.</summary>
        public string LastError { get; private set; } = "";
        public FrameSource Frames { get; } = new FrameSource();
        /// <summary>The server's clock now, ns since the Unix epoch.</summary>
        public long ServerNowNs => clock.ServerNow;

        /// <summary>Starts at once; there is nothing to wait for.</summary>
        /// <exception cref="ArgumentException">The endpoint is none, or the name is empty or longer than 64.</exception>
        public EversceneClient(ClientSettings settings)
        {
            this.settings = settings;
            endpoint = Endpoint.Parse(settings.Endpoint);
            if (string.IsNullOrWhiteSpace(settings.Name) || settings.Name.Length > 64)
                throw new ArgumentException("a client's name has 1 to 64 characters, not '" + settings.Name + "'");
            clientId = RandomId();
            control = new ControlLink(endpoint, settings.Token, MakeHello, news, clock, Attach);
            frames = new FramesLink(settings.Token, news, Frames, plan => control.RequestHello(), ChangeRing);
            control.Start();
            frames.Start();
            // Should nobody dispose of us before Unity reloads its domain or quits: no thread may outlive it.
            AppDomain.CurrentDomain.DomainUnload += OnUnload;
            AppDomain.CurrentDomain.ProcessExit += OnUnload;
        }

        /// <summary>
        /// Takes in what the network threads heard: receipts move, events are raised, awaiting code goes on. Call it once
        /// a frame. Allocates nothing when there is no news.
        /// </summary>
        public void Poll()
        {
            News item;
            while (news.TryTake(out item)) Hear(ref item);
            long now = ControlLink.NowMs;
            if (now < choresAtMs || State == ClientState.Stopped) return;
            choresAtMs = now + ChoresMs;
            DoChores(now);
        }

        /// <summary>For programs without a frame loop: waits until a frame or news came since the last call.</summary>
        public bool Wait(ref long heard, int milliseconds) => news.Wait(ref heard, milliseconds);

        /// <summary>
        /// Sends an event of the scene. Before the connection stands it waits up to 5 s for it.
        /// </summary>
        /// <param name="values">Absent ones take the scene's defaults.</param>
        public Receipt SendEvent(string name, params EventParam[] values) =>
            SendEvent(name, When.Default, values);

        /// <summary>The same, saying when it takes hold.</summary>
        public Receipt SendEvent(string name, When when, params EventParam[] values)
        {
            long now = UnixClock.SystemNow;
            var receipt = new Receipt(nextId++, name, now);
            return Post(receipt, Messages.Event(writer, receipt.Id, name, values, when, now));
        }

        /// <summary>Sends a whole prompt, in place of the scene's.</summary>
        public Receipt SendPrompt(string text, Transition transition = Transition.Recache, When when = When.Default) =>
            SendPrompt(text, transition, null, when);

        /// <summary>The same, little by little.</summary>
        public Receipt SendPrompt(string text, Blend blend, When when = When.Default) =>
            SendPrompt(text, Transition.Blend, blend, when);

        /// <summary>Puts words into slots of the scene, as a fader would: slot name → words.</summary>
        public Receipt SendSlots(
            IReadOnlyDictionary<string, string> words, Transition transition = Transition.Recache, When when = When.Default) =>
            SendSlots(words, transition, null, when);

        /// <summary>The same, little by little.</summary>
        public Receipt SendSlots(IReadOnlyDictionary<string, string> words, Blend blend, When when = When.Default) =>
            SendSlots(words, Transition.Blend, blend, when);

        Receipt SendPrompt(string text, Transition transition, Blend blend, When when)
        {
            long now = UnixClock.SystemNow;
            var receipt = new Receipt(nextId++, text, now);
            return Post(receipt, Messages.Prompt(writer, receipt.Id, text, transition, blend, when, now));
        }

        Receipt SendSlots(IReadOnlyDictionary<string, string> words, Transition transition, Blend blend, When when)
        {
            long now = UnixClock.SystemNow;
            string name = "";
            foreach (KeyValuePair<string, string> one in words) name = WithSlot(name, one.Key, one.Value);
            var receipt = new Receipt(nextId++, name, now);
            return Post(receipt, Messages.Slots(writer, receipt.Id, words, transition, blend, when, now));
        }

        // Slots in one line: `weather: rain, place: a harbour`.
        internal static string WithSlot(string before, string slot, string words) =>
            before + (before.Length > 0 ? ", " : "") + slot + ": " + words;

        /// <summary>Asks for the server's figures; they come as <see cref="StatsReceived"/>.</summary>
        public void RequestStats() => Post(Messages.StatsRequest(writer, nextId++));

        /// <summary>Says bye and ends every thread; takes at most 100 ms. A thread in a connect that hangs ends a little later.</summary>
        public void Dispose()
        {
            if (State == ClientState.Stopped) return;
            State = ClientState.Stopped;
            AppDomain.CurrentDomain.DomainUnload -= OnUnload;
            AppDomain.CurrentDomain.ProcessExit -= OnUnload;
            long until = ControlLink.NowMs + StopMs;
            control.Stop(Messages.Bye(writer), StopMs / 2);
            frames.Stop((int)Math.Max(10, until - ControlLink.NowMs));
            Frames.Dispose();
            LoseAll("the client was closed");
        }

        void OnUnload(object sender, EventArgs arguments) => Dispose();

        static long RandomId()
        {
            long id = BitConverter.ToInt64(Guid.NewGuid().ToByteArray(), 0) ^ BitConverter.ToInt64(Guid.NewGuid().ToByteArray(), 8);
            return Math.Max(1, id & long.MaxValue);
        }

        // Called by the control thread: it gets a writer of its own.
        byte[] MakeHello() =>
            Messages.Hello(new MsgPackWriter(), settings.Name, clientId, "csharp", Version);

        Receipt Post(Receipt receipt, byte[] bytes)
        {
            if (State == ClientState.Stopped) throw new ObjectDisposedException(nameof(EversceneClient));
            open[receipt.Id] = receipt;
            receipt.Message = new Outgoing { Bytes = bytes, Receipt = receipt, BornMs = ControlLink.NowMs };
            if (bytes.Length > Messages.LongestMessage)
                Reject(receipt, "too_long", "a message has at most 65536 bytes, this one " + bytes.Length);
            else if (State == ClientState.Refused)
                Reject(receipt, "not_connected", LastError);
            else if (!control.Post(receipt.Message))
                Reject(receipt, "queue_full", "too many messages wait for a connection to " + endpoint);
            return receipt;
        }

        void Post(byte[] bytes)
        {
            if (State == ClientState.Connected) control.Post(new Outgoing { Bytes = bytes, BornMs = ControlLink.NowMs });
        }

        // Not at once: a receipt moves only inside Poll.
        void Reject(Receipt receipt, string code, string reason) =>
            news.Add(new News(NewsKind.Receipt, null, new ReceiptNews
            {
                Id = receipt.Id, State = ReceiptState.Rejected, Code = code, Reason = reason,
            }));
    }
}
