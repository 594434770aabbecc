using System.Collections.Generic;

namespace Everscene
{
    /// <summary>What the scene of the sidecar can do: the events that it knows, in the order to show them.</summary>
    public sealed class SceneDescription
    {
        public string Name { get; private set; } = "";
        public IReadOnlyList<SceneEvent> Events { get; private set; } = new SceneEvent[0];

        /// <summary>What SendSlots may fill, in the order to show them.</summary>
        public IReadOnlyList<SceneSlot> Slots { get; private set; } = new SceneSlot[0];

        /// <summary>The event of that name, or null.</summary>
        public SceneEvent Find(string name)
        {
            foreach (SceneEvent known in Events)
                if (known.Name == name) return known;
            return null;
        }

        public static SceneDescription Read(ref MsgPackReader reader)
        {
            var scene = new SceneDescription();
            for (int pairs = reader.Map(); pairs > 0; pairs--)
            {
                MsgPackKey key = reader.Key();
                if (key.Is("name")) scene.Name = reader.TextOrNil() ?? "";
                else if (key.Is("events"))
                {
                    var events = new SceneEvent[reader.List()];
                    for (int i = 0; i < events.Length; i++) events[i] = SceneEvent.Read(ref reader);
                    scene.Events = events;
                }
                else if (key.Is("slots"))
                {
                    var slots = new SceneSlot[reader.List()];
                    for (int i = 0; i < slots.Length; i++) slots[i] = SceneSlot.Read(ref reader);
                    scene.Slots = slots;
                }
                else reader.Skip();
            }
            return scene;
        }
    }

    /// <summary>A place for words in the scene's prompt.</summary>
    public sealed class SceneSlot
    {
        public string Name { get; private set; } = "";
        public string Default { get; private set; } = "";
        /// <summary>Empty: it takes any words.</summary>
        public IReadOnlyList<string> Choices { get; private set; } = new string[0];

        internal static SceneSlot Read(ref MsgPackReader reader)
        {
            var found = new SceneSlot();
            for (int pairs = reader.Map(); pairs > 0; pairs--)
            {
                MsgPackKey key = reader.Key();
                if (key.Is("name")) found.Name = reader.Text();
                else if (key.Is("default")) found.Default = reader.TextOrNil() ?? "";
                else if (key.Is("choices") && !reader.TryNil())
                {
                    var choices = new string[reader.List()];
                    for (int i = 0; i < choices.Length; i++) choices[i] = reader.Text();
                    found.Choices = choices;
                }
                else if (!key.Is("choices")) reader.Skip();
            }
            return found;
        }
    }

    /// <summary>An event that the scene knows.</summary>
    public sealed class SceneEvent
    {
        public string Name { get; private set; } = "";
        /// <summary>For a button.</summary>
        public string Label { get; private set; } = "";
        /// <summary>Events that set the same thing share one: weather, time, setting, moment.</summary>
        public string Group { get; private set; } = "";
        /// <summary>When it takes hold if the sender does not say.</summary>
        public When When { get; private set; } = When.Now;
        /// <summary>Seconds after which it goes back by itself; 0 = it stays.</summary>
        public double ForSeconds { get; private set; }
        public IReadOnlyList<SceneParam> Params { get; private set; } = new SceneParam[0];

        internal static SceneEvent Read(ref MsgPackReader reader)
        {
            var found = new SceneEvent();
            for (int pairs = reader.Map(); pairs > 0; pairs--)
            {
                MsgPackKey key = reader.Key();
                if (key.Is("name")) found.Name = reader.Text();
                else if (key.Is("label")) found.Label = reader.TextOrNil() ?? "";
                else if (key.Is("group")) found.Group = reader.TextOrNil() ?? "";
                else if (key.Is("when")) found.When = reader.TextOrNil() == "chunk" ? When.Chunk : When.Now;
                else if (key.Is("for_s")) found.ForSeconds = reader.TryNil() ? 0 : reader.Number();
                else if (key.Is("params"))
                {
                    var all = new SceneParam[reader.List()];
                    for (int i = 0; i < all.Length; i++) all[i] = SceneParam.Read(ref reader);
                    found.Params = all;
                }
                else reader.Skip();
            }
            return found;
        }
    }

    public enum ParamKind { Number, Choice, Text, Flag }

    /// <summary>One parameter of an event. Of the defaults only the one of its kind means anything.</summary>
    public sealed class SceneParam
    {
        public string Name { get; private set; } = "";
        public string Label { get; private set; } = "";
        public ParamKind Kind { get; private set; }
        public double Min { get; private set; }
        public double Max { get; private set; } = 1;
        public double DefaultNumber { get; private set; }
        public bool DefaultFlag { get; private set; }
        /// <summary>Of a choice or a text.</summary>
        public string DefaultText { get; private set; } = "";
        public int MaxLength { get; private set; } = 256;
        public IReadOnlyList<string> Choices { get; private set; } = new string[0];

        internal static SceneParam Read(ref MsgPackReader reader)
        {
            var found = new SceneParam();
            MsgPackReader defaultAt = reader; // its type depends on "type", which may come after it
            bool hasDefault = false;
            for (int pairs = reader.Map(); pairs > 0; pairs--)
            {
                MsgPackKey key = reader.Key();
                if (key.Is("name")) found.Name = reader.Text();
                else if (key.Is("label")) found.Label = reader.TextOrNil() ?? "";
                else if (key.Is("type")) found.Kind = KindOf(reader.Text());
                else if (key.Is("min")) found.Min = reader.Number();
                else if (key.Is("max")) found.Max = reader.Number();
                else if (key.Is("max_length")) found.MaxLength = (int)reader.Integer();
                else if (key.Is("choices"))
                {
                    var choices = new string[reader.List()];
                    for (int i = 0; i < choices.Length; i++) choices[i] = reader.Text();
                    found.Choices = choices;
                }
                else if (key.Is("default"))
                {
                    defaultAt = reader;
                    hasDefault = true;
                    reader.Skip();
                }
                else reader.Skip();
            }
            if (hasDefault) found.ReadDefault(ref defaultAt);
            return found;
        }

        void ReadDefault(ref MsgPackReader reader)
        {
            if (reader.TryNil()) return;
            if (Kind == ParamKind.Number) DefaultNumber = reader.Number();
            else if (Kind == ParamKind.Flag) DefaultFlag = reader.Bool();
            else DefaultText = reader.Text();
        }

        static ParamKind KindOf(string type)
        {
            switch (type)
            {
                case "number": return ParamKind.Number;
                case "choice": return ParamKind.Choice;
                case "text": return ParamKind.Text;
                case "flag": return ParamKind.Flag;
                default: throw new MessageException("no such kind of param: '" + type + "'");
            }
        }
    }
}
